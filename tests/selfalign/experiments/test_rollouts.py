"""Episodes at once are the same episodes as one by one."""

from collections.abc import Iterator

import pytest
import torch

from selfalign.experiments.bench import Bench
from selfalign.experiments.oracle import NoDemonstrations, demonstrate, fit_with_labels
from selfalign.experiments.rollouts import Episode, episodes, roll_out
from selfalign.experiments.settings import OracleConfig
from selfalign.sim.experts import scripted_expert
from tests.fakes.experiment import small_bench, small_policy, small_stage
from tests.fakes.models import random_w

EXPERT = OracleConfig(demonstrations=1, steps=12, batch_size=8)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    policy = small_policy()
    with small_stage(policy, size=3) as stage:
        yield small_bench(stage, policy)


def test_every_w_is_run_from_every_start() -> None:
    policy = small_policy()
    wanted = episodes([("a", policy.base_w()), ("b", policy.base_w())], [7, 8])
    assert [(e.label, e.start) for e in wanted] == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]


def test_successes_are_reported_by_label_in_order(bench: Bench) -> None:
    with small_stage(bench.policy, size=1) as stage:
        stage.set_up(bench.robot)
        env = stage.env()
        # The second of three episodes succeeds.
        begun: list[int] = []
        reset = env.reset

        def counted(**options):
            begun.append(options["seed"])
            return reset(**options)

        env.reset = counted
        env.is_success = lambda: len(begun) == 2
        wanted = episodes([("a", bench.policy.base_w())], [7, 8])
        wanted += episodes([("b", bench.policy.base_w())], [9])
        found = roll_out(bench.io, stage, wanted)
    assert found == {"a": [False, True], "b": [False]}
    assert begun == [7, 8, 9]


def test_batched_episodes_are_those_run_alone(bench: Bench) -> None:
    """Which episodes run beside one does not change it: same noise, own W, own environment."""
    weights = [("a", random_w(bench.policy, seed=1)), ("b", random_w(bench.policy, seed=2))]
    wanted = episodes(weights, [3])
    together = _traces(bench, wanted)
    (alone,) = _traces(bench, wanted[1:])
    assert together[1] == pytest.approx(alone, abs=1e-3)
    assert together[0] != pytest.approx(together[1], abs=1e-3)


def _traces(bench: Bench, wanted: list[Episode]) -> list[list[float]]:
    """Where the tool of each episode ends, read from the environments it ran in."""
    with small_stage(bench.policy, size=len(wanted)) as stage:
        stage.set_up(bench.robot)
        roll_out(bench.io, stage, wanted)
        return [stage.env(i).measure().tool.tolist() for i in range(len(wanted))]


def test_a_policy_that_is_not_finite_fails_its_episode(bench: Bench) -> None:
    broken = bench.policy.base_w().map(lambda tensor: tensor * float("nan"))
    found = roll_out(bench.io, bench.stage, episodes([("nan", broken)], [3, 4]))
    assert found == {"nan": [False, False]}


def test_demonstrations_are_labelled_in_the_robots_actions(bench: Bench) -> None:
    env = bench.stage.env()
    chunks = demonstrate(env, bench.io, EXPERT, count=1, seed=0)
    horizon = bench.policy.config.horizon
    assert chunks.actions.shape[1:] == (horizon, bench.policy.config.action_dim)
    assert int(chunks.mask.sum()) == 4
    # A row's first label is what the expert wants at that row's state.
    env.reset(seed=int(_first_seed(0)))
    wanted = env.action_space.encode(scripted_expert(env))
    raw = bench.io.action_normaliser.denormalise(chunks.actions[0].numpy())
    assert raw[0] == pytest.approx(wanted, abs=1e-5)


def _first_seed(seed: int) -> int:
    import numpy as np

    return np.random.default_rng(seed).integers(2**31)


def test_fitting_with_labels_lowers_the_action_loss_and_moves_only_w(bench: Bench) -> None:
    chunks = demonstrate(bench.stage.env(), bench.io, EXPERT, count=1, seed=0)
    before = {name: tensor.clone() for name, tensor in bench.policy.state_dict().items()}
    w = fit_with_labels(bench.io, chunks, EXPERT, seed=0)
    assert _loss(bench, chunks, w) < _loss(bench, chunks, bench.policy.base_w())
    assert not w.W1.requires_grad
    after = bench.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@torch.no_grad()
def _loss(bench: Bench, chunks, w) -> float:
    noise = torch.zeros_like(chunks.actions)
    time = torch.full((len(chunks),), 0.5)
    errors = bench.policy.action_loss(
        chunks.prefix, chunks.state, chunks.actions, w, noise=noise, time_B=time
    )
    return float(errors[..., chunks.mask].mean())


def test_an_expert_that_cannot_do_it_is_told(bench: Bench) -> None:
    with small_stage(bench.policy) as stage:
        stage.set_up(bench.robot)
        stage.env().is_success = lambda: False
        with pytest.raises(NoDemonstrations, match="'reach' in 0 of 3 episodes on panda, but 1"):
            demonstrate(stage.env(), bench.io, EXPERT, count=1, seed=0)
