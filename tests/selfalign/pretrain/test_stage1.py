"""The persistent inner loop: who moves whom, and that a run can be stopped anywhere."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfalign.align.losses import AlignmentLosses
from selfalign.data.recording import Recording
from selfalign.errors import StoreError
from selfalign.model.checkpoint import load_policy
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights
from selfalign.pretrain.batches import draw_batch, draw_frames
from selfalign.pretrain.cache import PrefixCache, build_cache
from selfalign.pretrain.config import PretrainConfig, Stage1Config
from selfalign.pretrain.embodiments import Embodiment
from selfalign.pretrain.inner_loop import InnerLoop
from selfalign.pretrain.prefix import load_frames
from selfalign.pretrain.stage1 import PartLosses, Whole, action_loss, compiled, outer_and_inner
from selfalign.pretrain.stage1_data import Stage1Data
from selfalign.pretrain.trainer import open_data, pretrain
from tests.fakes.models import random_w


@pytest.fixture(scope="session")
def cache(recorded: Path, config: PretrainConfig) -> PrefixCache:
    torch.manual_seed(0)
    return build_cache(Policy(config.model).freeze(), Recording(recorded / "recording"))


def make_policy(config: PretrainConfig, seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    return Policy(config.model)


def make_data(recorded: Path, config: PretrainConfig, cache: PrefixCache) -> Stage1Data:
    return Stage1Data(make_policy(config), Recording(recorded / "recording"), cache, 1)


@pytest.fixture
def data(recorded: Path, config: PretrainConfig, cache: PrefixCache) -> Stage1Data:
    return make_data(recorded, config, cache)


def make_loop(config: PretrainConfig, data: Stage1Data, **fields: Any) -> InnerLoop:
    settings = config.stage1.model_copy(update=fields)
    return InnerLoop(settings, config.seed, make_policy(config), data)


def losses_of(
    policy: Policy,
    data: Stage1Data,
    embodiments: list[Embodiment],
    delta: FastWeights,
    settings: Stage1Config,
) -> PartLosses:
    """The losses of an iteration of one part, drawn by generator 7."""
    batch = draw_batch(data, embodiments, np.random.default_rng(7), settings)
    whole = Whole.of(policy, data, embodiments, settings)
    losses = AlignmentLosses(settings.inner)
    return outer_and_inner(policy, losses, batch, delta, whole, settings)


def everything(loop: InnerLoop) -> dict[str, Tensor]:
    pool = {f"pool.{name}": tensor for name, tensor in loop.pool.state().items()}
    trunk = loop.policy.state_dict() | pool
    return {name: tensor.clone() for name, tensor in trunk.items()}


def test_held_out_groups_are_never_drawn(data: Stage1Data, config: PretrainConfig) -> None:
    held_out = {group.start for group in data.held_out_groups}
    drawn = {data.draw(seed, seed, 0.5, config.stage1).group.start for seed in range(40)}
    assert len(data.train_groups) + len(data.held_out_groups) == 3
    assert drawn == {group.start for group in data.train_groups}
    assert not drawn & held_out


def test_groups_are_held_out_by_number_wherever_they_stand(
    recorded: Path, config: PretrainConfig, cache: PrefixCache, tmp_path: Path
) -> None:
    # Several arms are recorded one after another: here the last group stands first.
    (tmp_path / "recording").mkdir()
    for path in (recorded / "recording").glob("*.npy"):
        (tmp_path / "recording" / path.name).symlink_to(path)
    index = json.loads((recorded / "recording" / "episodes.json").read_text(encoding="utf-8"))
    for episode in index["episodes"]:
        episode["group"] = {0: 2, 1: 0, 2: 1}[episode["group"]]
    (tmp_path / "recording" / "episodes.json").write_text(json.dumps(index), encoding="utf-8")
    recording = Recording(tmp_path / "recording")

    data = Stage1Data(make_policy(config), recording, cache, 1)
    frames = load_frames(tmp_path, 1)

    (held_out,) = data.held_out_groups
    assert held_out.start == 0
    assert all(group.start >= held_out.stop for group in data.train_groups)
    images, points = frames.sources[0]
    assert len(images) == len(points) == len(recording) - held_out.stop
    assert np.array_equal(images[0], recording["images"][held_out.stop])


def test_embodiment_follows_its_two_seeds(data: Stage1Data, config: PretrainConfig) -> None:
    one, same, other_space, other_group = (
        data.draw(*seeds, 0.0, config.stage1) for seeds in ((5, 2), (5, 2), (6, 2), (5, 3))
    )
    assert np.array_equal(one.actions, same.actions)
    assert other_space.group.start == one.group.start != other_group.group.start
    assert not np.array_equal(one.actions, other_space.actions)


def test_recording_without_enough_groups_is_refused(
    recorded: Path, config: PretrainConfig, cache: PrefixCache
) -> None:
    recording = Recording(recorded / "recording")
    with pytest.raises(StoreError, match="0 usable groups to train on"):
        Stage1Data(make_policy(config), recording, cache, 3)


def test_batches_are_rows_of_their_embodiments(data: Stage1Data, config: PretrainConfig) -> None:
    embodiments = [data.draw(seed, seed, 0.0, config.stage1) for seed in (1, 2)]
    batch = data.transitions(embodiments, np.random.default_rng(0), 3, "query")
    assert len(batch) == 6
    assert batch.actions.shape == (6, config.model.stride, 32)
    for index in range(6):
        embodiment = embodiments[index // 3]
        state = data.states[embodiment.group.start : embodiment.group.stop]
        (row,) = np.flatnonzero((state == batch.state[index]).all(-1).numpy())[:1]
        expected = embodiment.actions[row : row + config.model.stride]
        assert np.array_equal(batch.actions[index].numpy(), expected)
        assert batch.action_mask[index].tolist() == embodiment.aligned_mask.tolist()


def test_delta_gets_the_gradient_of_its_own_alignment_loss_and_of_nothing_else(
    data: Stage1Data, config: PretrainConfig
) -> None:
    settings, policy = config.stage1, make_policy(config)
    losses = AlignmentLosses(settings.inner)
    embodiments = [data.draw(seed, seed, 0.0, settings) for seed in (1, 2)]
    delta = random_w(policy, 2)

    outcome = losses_of(policy, data, embodiments, delta, settings)
    outcome.total.backward()
    got = outcome.slot_gradient()

    # The same support transitions, each slot by itself: no query transitions, no action loss.
    rng = np.random.default_rng(7)
    batch = data.transitions(embodiments, rng, settings.transitions, "support")
    for slot, rows in enumerate(([0, 1], [2, 3])):
        w = policy.base_w().combine(delta.select(torch.tensor(slot)), torch.add)
        w = w.map(lambda t: t.requires_grad_())
        total = losses(policy, batch.index(torch.tensor(rows)), w).total
        for gradient, expected in zip(
            (got.W1[slot], got.b1[slot]), torch.autograd.grad(total, [w.W1, w.b1]), strict=True
        ):
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_action_loss_reaches_trunk_and_w0_but_not_delta(
    data: Stage1Data, config: PretrainConfig
) -> None:
    settings, policy = config.stage1, make_policy(config)
    embodiments = [data.draw(seed, seed, 0.0, settings) for seed in (1, 2)]
    quiet = settings.inner.model_copy(
        update={f"lambda_{n}": 0.0 for n in ("perception", "inverse_dynamics", "dynamics")}
    )
    settings = settings.model_copy(update={"inner": quiet})
    outcome = losses_of(policy, data, embodiments, random_w(policy, 2), settings)
    outcome.total.backward()
    assert not outcome.slot_gradient().W1.any()
    assert policy.w0_W1.grad is not None
    assert policy.w0_W1.grad.any()
    assert policy.action_out_proj.weight.grad.any()


def test_action_loss_depends_on_the_delta_of_the_slot(
    data: Stage1Data, config: PretrainConfig
) -> None:
    settings, policy = config.stage1, make_policy(config)
    embodiments = [data.draw(seed, seed, 0.0, settings) for seed in (1, 2)]
    frames = draw_frames(data, embodiments, np.random.default_rng(0), settings)
    whole = Whole.of(policy, data, embodiments, settings)
    values = []
    for seed in (0, 0, 1):
        loss = action_loss(policy, frames, random_w(policy, 2, seed), whole)
        values.append(float(loss.detach()))
    assert values[0] == values[1] != values[2]


def test_action_loss_ignores_numbers_that_the_robot_has_not(
    data: Stage1Data, config: PretrainConfig
) -> None:
    settings, policy = config.stage1, make_policy(config)
    embodiments = [data.draw(1, 1, 0.0, settings)]
    w, whole = random_w(policy, 1), Whole.of(policy, data, embodiments, settings)
    frames = draw_frames(data, embodiments, np.random.default_rng(0), settings)
    before = action_loss(policy, frames, w, whole)
    with torch.no_grad():
        absent = ~torch.from_numpy(embodiments[0].action_mask)
        policy.action_out_proj.bias[absent] += 100
    after = action_loss(policy, frames, w, whole)
    assert torch.equal(before, after)


def test_a_model_for_frozen_starts_sees_them_clean_and_learns_what_follows(
    data: Stage1Data, config: PretrainConfig
) -> None:
    settings, policy = config.stage1, make_policy(config)
    embodiments = [data.draw(seed, seed, 0.0, settings) for seed in (1, 2)]
    frames = draw_frames(data, embodiments, np.random.default_rng(0), settings)
    w, whole = random_w(policy, 2), Whole.of(policy, data, embodiments, settings)
    policy.config = policy.config.model_copy(update={"trained_delay": 2})

    def loss(start: float, noise: Tensor) -> float:
        given = replace(frames, start=torch.full_like(frames.start, start), noise=noise)
        return float(action_loss(policy, given, w, whole).detach())

    other = frames.noise.clone()
    other[:, :2] += 1
    # Two actions are frozen: their noise is neither seen nor asked for.
    assert loss(0.99, frames.noise) == loss(0.99, other)
    assert loss(0.0, frames.noise) != loss(0.0, other)


def test_vision_and_prefix_stay_as_they_were_while_the_trunk_moves(
    data: Stage1Data, config: PretrainConfig
) -> None:
    loop = make_loop(config, data)
    before = everything(loop)
    loop.step(0)
    after = everything(loop)
    frozen = [n for n in before if n.startswith(("vision.", "language.", "embed_tokens."))]
    assert frozen
    for name in frozen:
        assert torch.equal(before[name], after[name]), name
    for name in ("w0_W1", "action.layers.0.ttt.q_proj.weight", "alignment.queries", "pool.age"):
        assert not torch.equal(before[name], after[name]), name


def test_slots_that_are_not_drawn_keep_their_delta(
    data: Stage1Data, config: PretrainConfig
) -> None:
    loop = make_loop(config, data)
    loop.pool.lifetime.fill_(1e9)
    loop.step(0)
    moved = loop.pool.delta.W1.flatten(1).abs().amax(1) > 0
    assert int(moved.sum()) == config.stage1.slots_per_iteration
    assert torch.equal(moved, loop.pool.state()["age"] > 0)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    data: Stage1Data, config: PretrainConfig, tmp_path: Path, optimiser: str
) -> None:
    whole = make_loop(config, data, optimiser=optimiser)
    for iteration in range(6):
        whole.step(iteration)
    stopped = make_loop(config, data, optimiser=optimiser)
    for iteration in range(3):
        stopped.step(iteration)
    stopped.save(tmp_path, 3)

    resumed = make_loop(config, data, optimiser=optimiser)
    assert resumed.resume(tmp_path) == 3
    for iteration in range(3, 6):
        resumed.step(iteration)

    expected = everything(whole)
    for name, tensor in everything(resumed).items():
        assert torch.equal(tensor, expected[name]), name
    assert (whole.pool.age < 3).any(), "no life ended; the test proves less than it should"


def trunk(loop: InnerLoop) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in loop.trunk.items()}


def test_what_is_saved_is_the_running_mean_and_training_goes_on_without_it(
    data: Stage1Data, config: PretrainConfig, tmp_path: Path
) -> None:
    loop, plain = make_loop(config, data, average=0.9), make_loop(config, data)
    expected = trunk(loop)
    for iteration in range(4):
        loop.step(iteration)
        plain.step(iteration)
        decay = min(0.9, (1 + iteration) / (10 + iteration))
        expected = {n: decay * expected[n] + (1 - decay) * w for n, w in trunk(loop).items()}
    loop.save(tmp_path, 4)
    saved = load_policy(tmp_path / "model").state_dict()
    for name, mean in expected.items():
        torch.testing.assert_close(saved[name.replace("/", ".")], mean, rtol=1e-5, atol=1e-7)
    after = everything(plain)
    for name, tensor in everything(loop).items():
        assert torch.equal(tensor, after[name]), name
    moved = [not torch.equal(expected[name], w) for name, w in trunk(loop).items()]
    assert sum(moved) > len(moved) / 2


def test_a_resumed_run_has_the_mean_of_the_whole_one(
    data: Stage1Data, config: PretrainConfig, tmp_path: Path
) -> None:
    whole, stopped = make_loop(config, data, average=0.9), make_loop(config, data, average=0.9)
    for iteration in range(5):
        whole.step(iteration)
    for iteration in range(3):
        stopped.step(iteration)
    stopped.save(tmp_path, 3)
    resumed = make_loop(config, data, average=0.9)
    assert resumed.resume(tmp_path) == 3
    for iteration in range(3, 5):
        resumed.step(iteration)
    with whole.averaged(), resumed.averaged():
        expected = trunk(whole)
        assert all(torch.equal(w, expected[name]) for name, w in trunk(resumed).items())


def test_a_mean_that_is_switched_on_later_starts_at_the_weights_then(
    data: Stage1Data, config: PretrainConfig, tmp_path: Path
) -> None:
    plain = make_loop(config, data)
    plain.step(0)
    plain.save(tmp_path, 1)
    later = make_loop(config, data, average=0.9)
    later.resume(tmp_path)
    with later.averaged():
        assert all(torch.equal(w, trunk(plain)[name]) for name, w in trunk(later).items())


def test_model_of_a_checkpoint_is_the_policy_in_training(
    data: Stage1Data, config: PretrainConfig, tmp_path: Path
) -> None:
    loop = make_loop(config, data)
    loop.step(0)
    loop.save(tmp_path, 1)
    read = load_policy(tmp_path / "model").state_dict()
    for name, tensor in loop.policy.state_dict().items():
        assert torch.equal(read[name], tensor), name


def test_run_from_recording_to_model_and_again(run_dir: Path, config: PretrainConfig) -> None:
    model = pretrain(config, run_dir)

    policy = load_policy(model)
    assert policy.config == config.model
    prefix = load_policy(run_dir / "prefix")
    assert torch.equal(policy.embed_tokens.weight, prefix.embed_tokens.weight)
    assert not torch.equal(policy.w0_W1, prefix.w0_W1)
    spread = policy.vision.readout.spread
    assert float(spread.min()) >= 0.1
    assert not torch.equal(spread, torch.ones_like(spread))
    log = (run_dir / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["iteration"] for line in lines if line["phase"] == "prefix"] == [1, 2, 3]
    held_out = {key for line in lines for key in line if key.endswith("/action_error")}
    assert "held_out/joint_permuted/50/action_error" in held_out
    assert "held_out/tool_canonical/0/action_error" in held_out
    for line in lines:
        assert all(np.isfinite(v) for v in line.values() if isinstance(v, float))

    # A finished run has nothing left to do and does not touch its model.
    weights = (model / "model.safetensors").read_bytes()
    assert pretrain(config, run_dir) == model
    assert (run_dir / "log.jsonl").read_text(encoding="utf-8") == log
    assert (model / "model.safetensors").read_bytes() == weights


def test_cache_is_built_once_and_read_again(run_dir: Path, config: PretrainConfig) -> None:
    policy = make_policy(config)
    built = open_data(config, run_dir, policy).cache
    with torch.no_grad():
        policy.embed_tokens.weight.zero_()  # a rebuilt cache would differ
    again = open_data(config, run_dir, policy).cache
    assert torch.equal(built.key_values, again.key_values)
    assert not (run_dir / "prefix_cache.tmp").exists()


def test_slot_gradient_needs_a_backward_pass(data: Stage1Data, config: PretrainConfig) -> None:
    policy = make_policy(config)
    embodiments, delta = [data.draw(1, 1, 0.0, config.stage1)], FastWeights.stack([policy.base_w()])
    outcome = losses_of(policy, data, embodiments, delta, config.stage1)
    with pytest.raises(AssertionError, match="before backward"):
        outcome.slot_gradient()


def test_compiled_stacks_are_so_only_within_the_block(config: PretrainConfig) -> None:
    policy = make_policy(config)
    with compiled(policy, enabled=True):
        first = policy.action.forward
        assert "forward" in vars(policy.alignment.expert)
    assert "forward" not in vars(policy.action)
    assert "forward" not in vars(policy.alignment.expert)
    with compiled(policy, enabled=True):
        assert policy.action.forward is first, "compiled twice"
    with compiled(policy, enabled=False):
        assert "forward" not in vars(policy.action)


def test_delta_is_never_fitted_to_query_transitions(
    data: Stage1Data, config: PretrainConfig
) -> None:
    for seed in range(6):
        embodiment = data.draw(seed, seed, 0.0, config.stage1)
        support, query = set(embodiment.support.tolist()), set(embodiment.query.tolist())
        assert support | query == set(embodiment.group.transitions.tolist())
        assert not support & query
        episode = data.recording["episode"]
        assert {int(episode[r]) for r in support}.isdisjoint(int(episode[r]) for r in query)
    drawn = [data.draw(seed, 1, 0.0, config.stage1) for seed in range(10)]
    assert len({int(e.support[0]) for e in drawn}) == 2, "always the same half"


def test_trunk_learns_from_query_transitions_too(data: Stage1Data, config: PretrainConfig) -> None:
    settings, policy = config.stage1, make_policy(config)
    embodiments = [data.draw(seed, seed, 0.0, settings) for seed in (1, 2)]
    losses, delta = AlignmentLosses(settings.inner), random_w(policy, 2)
    outcome = losses_of(policy, data, embodiments, delta, settings)
    rng = np.random.default_rng(7)
    w = delta.combine(policy.live_w0(), torch.add)
    expected = {}
    for name, part in (("alignment", "support"), ("query", "query")):
        batch = data.transitions(embodiments, rng, settings.transitions, part)
        for key, value in losses(policy, batch, w).metrics.items():
            expected[f"{name}/{key.split('/')[1]}"] = value
    metrics = outcome.metrics
    assert metrics.keys() == expected.keys() | {"action"}
    for key, value in expected.items():
        assert metrics[key] == pytest.approx(value, rel=1e-4)
    mean = (metrics["alignment/total"] + metrics["query/total"]) / 2
    assert float(outcome.total.detach()) == pytest.approx(metrics["action"] + mean, rel=1e-4)
