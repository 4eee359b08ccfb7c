"""Several processes, micro-batches and a thread that reads ahead: the same course as one by one."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfalign.data.recording import Recording
from selfalign.errors import ModelError
from selfalign.model.policy import Policy
from selfalign.model.ttt import apply_weights
from selfalign.model.weights import FastWeights
from selfalign.pretrain.cache import PrefixCache, build_cache
from selfalign.pretrain.config import PretrainConfig, Stage1Config
from selfalign.pretrain.inner_loop import InnerLoop
from selfalign.pretrain.processes import Processes
from selfalign.pretrain.stage1_data import Stage1Data
from selfalign.pretrain.trainer import pretrain
from tests.fakes.accelerator import together
from tests.fakes.models import random_numbers

# Products of other batch sizes are summed in another order, and Adam's first steps enlarge what
# that changes where a gradient nearly vanishes.
CLOSE = 1e-5


@pytest.fixture(scope="session")
def stage1(config: PretrainConfig) -> Stage1Config:
    """Slots that do not divide evenly, of robots with different counts of numbers."""
    families = {"tool_rotated": 0.5, "joint_permuted": 0.5}
    fields = {"slots": 7, "slots_per_iteration": 5, "lifetime": 2.0, "families": families}
    return config.stage1.model_copy(update=fields)


@pytest.fixture(scope="session")
def data(recorded: Path, config: PretrainConfig) -> Stage1Data:
    torch.manual_seed(0)
    policy = Policy(config.model).freeze()
    recording = Recording(recorded / "recording")
    cache: PrefixCache = build_cache(policy, recording)
    return Stage1Data(policy, recording, cache, 1)


@pytest.fixture(scope="session")
def begun(config: PretrainConfig) -> Policy:
    """The policy that every course begins with; take a copy."""
    torch.manual_seed(0)
    return Policy(config.model)


MakeLoop = Callable[..., InnerLoop]


@pytest.fixture
def make_loop(begun: Policy, stage1: Stage1Config, data: Stage1Data) -> MakeLoop:
    """A loop of some process with some settings of its own."""

    def make(processes: Processes | None = None, **fields: Any) -> InnerLoop:
        settings = stage1.model_copy(update=fields)
        return InnerLoop(settings, 0, deepcopy(begun), data, processes=processes)

    return make


class Pull:
    """A further loss: the sum of one weight, and of one that no other loss reaches."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight, self.alone = weight, nn.Parameter(torch.ones(2))
        self.calls: list[tuple[int, int]] = []

    def backward(
        self, embodiments: list[Any], delta: FastWeights, iteration: int
    ) -> dict[str, float]:
        self.calls.append((len(embodiments), len(delta.W1)))
        loss = self.weight.sum() + iteration * self.alone.sum()
        loss.backward()
        return {"pull": float(loss.detach())}


def course(loop: InnerLoop, iterations: range) -> dict[str, Tensor]:
    """Trunk, W0, pool and last losses after some iterations."""
    for iteration in iterations:
        metrics = loop.step(iteration)
    pool = {f"pool.{name}": tensor for name, tensor in loop.pool.state().items()}
    losses = {f"loss.{name}": torch.tensor(value) for name, value in metrics.items()}
    named = loop.policy.state_dict() | pool | losses
    loop.close()
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def off(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """Relative differences of all tensors that are not close; what is no float must be equal."""
    assert one.keys() == other.keys()
    found = {}
    for name, tensor in one.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, other[name]), name
            continue
        difference = float((tensor - other[name]).norm() / tensor.norm().clamp_min(1e-12))
        if difference > CLOSE:
            found[name] = difference
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture(scope="session")
def alone(begun: Policy, stage1: Stage1Config, data: Stage1Data) -> dict[str, Tensor]:
    """The course of one process with one batch an iteration."""
    return course(InnerLoop(stage1, 0, deepcopy(begun), data), range(5))


@pytest.mark.parametrize("count", [2, 3])
def test_processes_give_the_course_of_one(
    count: int, make_loop: MakeLoop, alone: dict[str, Tensor]
) -> None:
    first, *others = together(count, lambda processes: course(make_loop(processes), range(5)))

    assert (alone["pool.age"] < 3).any(), "no life ended; the test proves less than it should"
    assert off(alone, first) == {}
    assert all(equal(first, other) for other in others), "processes have come apart"


def test_share_that_is_lost_would_be_seen(make_loop: MakeLoop, alone: dict[str, Tensor]) -> None:
    def work(processes: Processes) -> dict[str, Tensor]:
        accelerator: Any = processes._accelerator
        accelerator.reduce = lambda tensor, reduction: tensor
        return course(make_loop(processes), range(5))

    first, _ = together(2, work)
    assert {"w0_W1", "pool.delta.W1", "loss.action"} <= off(alone, first).keys()


@pytest.mark.parametrize(
    "fields",
    [{"accumulate": 2}, {"accumulate": 5}, {"gradient_checkpointing": True}],
    ids=["two parts", "slot by slot", "checkpointing"],
)
def test_memory_savers_change_nothing(
    fields: dict[str, Any], make_loop: MakeLoop, alone: dict[str, Tensor]
) -> None:
    assert off(alone, course(make_loop(**fields), range(5))) == {}


def test_micro_batches_of_several_processes_add_up(
    make_loop: MakeLoop, alone: dict[str, Tensor]
) -> None:
    first, _ = together(2, lambda processes: course(make_loop(processes, accumulate=2), range(5)))
    assert off(alone, first) == {}


def test_extra_loss_of_the_first_process_counts_once(
    begun: Policy, stage1: Stage1Config, data: Stage1Data, alone: dict[str, Tensor]
) -> None:
    def work(processes: Processes) -> tuple[dict[str, Tensor], Pull, Tensor]:
        policy = deepcopy(begun)
        pull = Pull(policy.action_in_proj.weight)
        loop = InnerLoop(stage1, 0, policy, data, processes=processes, extra=pull)
        loop.trunk["alone"] = pull.alone
        loop.optimisers[0].add_param_group({"params": [pull.alone]})
        state = course(loop, range(5))
        return {k: v for k, v in state.items() if k != "loss.pull"}, pull, pull.alone.detach()

    ((one, pull, _),) = together(1, work)
    (first, other, weight), (second, silent, same_weight) = together(2, work)

    assert pull.calls == other.calls == [(5, 5)] * 5, "all slots, whoever computes them"
    assert silent.calls == []
    assert off(one, first) == {}
    assert equal(first, second)
    assert torch.equal(weight, same_weight)
    assert float(weight.max()) < 1, "a weight that only the first process has a gradient for"
    assert "action_in_proj.weight" in off(alone, one), "the loss did nothing"


def test_reading_ahead_changes_no_bit(make_loop: MakeLoop) -> None:
    ahead, plain = (
        course(make_loop(accumulate=2, read_ahead=on), range(5)) for on in (True, False)
    )
    assert equal(ahead, plain)


def test_bfloat16_is_near_and_leaves_weights_and_w_in_float32(
    make_loop: MakeLoop, alone: dict[str, Tensor]
) -> None:
    half = course(make_loop(bfloat16=True), range(5))
    assert all(half[name].dtype == tensor.dtype for name, tensor in alone.items())
    # bfloat16 has 8 bits: losses agree to about a percent, and are not the same.
    for name in ("loss.action", "loss.query/total"):
        assert float(half[name]) == pytest.approx(float(alone[name]), rel=0.03)
        assert half[name] != alone[name]


def test_products_with_w_are_those_of_float32_under_autocast() -> None:
    x, w1, b1 = random_numbers(2, 3, 4, 8), random_numbers(3, 8, 8), random_numbers(3, 1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ w1).dtype == torch.bfloat16
        inside = apply_weights(x, w1, b1)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, apply_weights(x, w1, b1))
    assert apply_weights(x.to("meta"), w1.to("meta"), b1.to("meta")).shape == x.shape


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_stopped_run_goes_on_with_another_number_of_processes(
    before: int, after: int, make_loop: MakeLoop, alone: dict[str, Tensor], tmp_path: Path
) -> None:
    def begin(processes: Processes) -> None:
        loop = make_loop(processes)
        course(loop, range(3))
        if processes.is_first:
            loop.save(tmp_path, 3)

    def go_on(processes: Processes) -> dict[str, Tensor]:
        loop = make_loop(processes)
        assert loop.resume(tmp_path) == 3
        return course(loop, range(3, 5))

    together(before, begin)
    assert off(alone, together(after, go_on)[0]) == {}


def test_state_of_a_loop_that_reads_ahead_is_that_of_the_last_iteration(
    make_loop: MakeLoop,
) -> None:
    loop, plain = make_loop(read_ahead=True), make_loop(read_ahead=False)
    for iteration in range(2):
        loop.step(iteration)
        plain.step(iteration)
        expected = plain.pool.state()
        assert equal(loop.pool.state(), expected)
    loop.close()


def test_more_processes_than_slots_are_refused(make_loop: MakeLoop) -> None:
    def work(processes: Processes) -> None:
        with pytest.raises(ModelError, match=r"5 slots of an iteration .* by 6 processes"):
            make_loop(processes)

    together(6, work)


def test_run_of_two_processes_writes_log_and_model_once(
    run_dir: Path, config: PretrainConfig
) -> None:
    first, second = together(2, lambda processes: pretrain(config, run_dir, processes))

    assert first == second == run_dir / "model"
    log = (run_dir / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines()]
    steps = [x["iteration"] for x in lines if x["phase"] == "stage1" and "action" in x]
    assert steps == [1, 2, 3, 4, 5, 6]
    curves = [x for x in lines if "held_out/joint_permuted/50/action_error" in x]
    assert len(curves) == 1
