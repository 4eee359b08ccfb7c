"""What each method comes up with."""

from collections.abc import Iterator

import pytest
import torch

from selfalign.experiments.bench import Bench, Candidate
from selfalign.experiments.methods import UnknownMethod, candidate, check_methods
from selfalign.experiments.plans import BASELINES, CURVES
from selfalign.experiments.stage import Stage
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights
from tests.fakes.experiment import QUICK, small_bench, small_policy, small_stage

METHODS = ("base", "aligned", "steps_0", "steps_1", "steps_3", "play_3")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return small_policy()


@pytest.fixture(scope="module")
def stage(policy: Policy) -> Iterator[Stage]:
    with small_stage(policy, size=1) as stage:
        yield stage


@pytest.fixture(scope="module")
def bench(stage: Stage, policy: Policy) -> Bench:
    return small_bench(stage, policy, QUICK.model_copy(update={"methods": METHODS}))


def equal(one: Candidate, other: Candidate) -> bool:
    return torch.equal(one.w.W1, other.w.W1) and torch.equal(one.w.b1, other.w.b1)


def moved(bench: Bench, found: Candidate) -> FastWeights:
    return found.w.combine(bench.policy.base_w(), torch.sub)


def test_the_curve_of_steps_is_one_alignment(bench: Bench) -> None:
    assert equal(candidate(bench, "steps_0"), candidate(bench, "base"))
    norms = [
        float(moved(bench, candidate(bench, name)).norm())
        for name in ("steps_0", "steps_1", "aligned", "steps_3")
    ]
    assert norms == sorted(set(norms))


def test_less_play_gives_another_w_and_a_verdict_of_its_own(bench: Bench) -> None:
    short, whole = candidate(bench, "play_3"), candidate(bench, "aligned")
    assert not equal(short, whole)
    assert short.judgement is not None
    assert short.judgement != whole.judgement


def test_random_w_is_as_far_from_the_base_as_the_aligned_one(bench: Bench) -> None:
    random, aligned = candidate(bench, "random_w"), candidate(bench, "aligned")
    assert float(moved(bench, random).norm()) == pytest.approx(
        float(moved(bench, aligned).norm()), rel=1e-4
    )
    assert equal(random, candidate(bench, "random_w"))


def test_the_w_of_another_robot_leaves_this_one_set_up(bench: Bench) -> None:
    wrong = candidate(bench, "wrong_robot")
    assert not equal(wrong, candidate(bench, "aligned"))
    assert bench.stage.env().cameras["front"] == bench.robot.camera
    assert bench.stage.env().action_space is bench.robot.space
    assert wrong.judgement is not None


def test_mean_and_nearest_are_of_the_same_strangers(bench: Bench) -> None:
    base = bench.policy.base_w()
    strangers = [base, base.map(lambda tensor: tensor + 3.0)]
    bench.library.w[bench.cell.name] = strangers
    try:
        mean, nearest = candidate(bench, "mean_w"), candidate(bench, "nearest_w")
    finally:
        del bench.library.w[bench.cell.name]
    torch.testing.assert_close(mean.w.W1, base.W1 + 1.5)
    losses = [candidate(bench, "steps_0"), Candidate("far", strangers[1])]
    assert any(equal(nearest, one) for one in losses)


def test_losses_switched_off_do_not_move_w(bench: Bench) -> None:
    alone = [candidate(bench, name) for name in ("perception_only", "inverse_only")]
    assert not equal(alone[0], alone[1])
    assert not equal(candidate(bench, "no_dynamics"), candidate(bench, "aligned"))


def test_shuffled_actions_lead_elsewhere(bench: Bench) -> None:
    assert not equal(candidate(bench, "shuffled_actions"), candidate(bench, "aligned"))


def test_more_demonstrations_are_more_labels(bench: Bench) -> None:
    one = candidate(bench, "demos_1")
    assert equal(one, candidate(bench, "oracle"))  # of one demonstration, in QUICK


def test_every_method_of_the_documents_exists() -> None:
    check_methods([*BASELINES, *CURVES["steps"], *CURVES["play"]])
    for name in ("steps_", "steps_x", "demos", "best"):
        with pytest.raises(UnknownMethod, match=name):
            check_methods([name])
