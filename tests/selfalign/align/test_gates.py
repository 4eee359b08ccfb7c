"""Gates: a W that helps passes; each way in which it can do harm fails its own check."""

import math
from dataclasses import dataclass

import pytest
import torch
from pydantic import ValidationError

from selfalign.align.gates import GateConfig, run_gates
from selfalign.model.weights import FastWeights


def make_w(value: float, *, dim: int = 4) -> FastWeights:
    return FastWeights(
        torch.full((2, 2, dim, dim), value), torch.full((2, 2, 1, dim), value), (0, 1)
    )


BASE, ACTIVE, CANDIDATE = make_w(0.02), make_w(0.03), make_w(0.04)
LOSSES = {"total": 3.0, "dynamics": 1.0, "perception": 2.0}
HELD_OUT = range(40)


def scaled(factor, **changes):
    return {name: value * factor for name, value in LOSSES.items()} | changes


def wavy(mean, size):
    """40 numbers of that mean that differ by `size`: rows of five alike, as neighbours are."""
    return mean + size * torch.tensor([-1.0, 1.0]).repeat_interleave(5).repeat(4)


@dataclass
class Report:
    by_transition: dict


class FakeLosses:
    """Answers with one set of losses for the active W and another for the candidate.

    A single number is the loss of every transition.
    """

    def __init__(self, before, after):
        self.answers = {0.03: before, 0.04: after}
        self.batches = []

    def __call__(self, policy, batch, w):
        assert not torch.is_grad_enabled()
        self.batches.append(batch)
        losses = self.answers[round(float(w.W1[0, 0, 0, 0]), 4)]
        one = torch.ones(len(batch))
        return Report({name: torch.as_tensor(loss) * one for name, loss in losses.items()})


class FakePolicy:
    """Adds to the noise what it was told for this W; records the noise it drew."""

    def __init__(self, before=0.0, after=0.0, spread=0.0):
        self.shift = {0.03: torch.as_tensor(before), 0.04: torch.as_tensor(after)}
        self.spread = spread
        self.noise = []

    def act(self, prefix, state, w, *, generator=None):
        assert prefix == "prefix"
        noise = torch.randn(len(state), 5, 3, generator=generator)
        self.noise.append(noise)
        return self.shift[round(float(w.W1[0, 0, 0, 0]), 4)] + self.spread * noise


ANCHORS = ("prefix", torch.zeros(6, 8))


def judge(*, before=LOSSES, after=None, policy=None, config=None, **changes):
    losses = FakeLosses(before, scaled(0.5) if after is None else after)
    options = {
        "held_out": HELD_OUT,
        "active": ACTIVE,
        "candidate": CANDIDATE,
        "base": BASE,
        "anchors": ANCHORS,
        "config": config or GateConfig(),
    } | changes
    return run_gates(policy or FakePolicy(), losses, **options)


def failed(report) -> list[str]:
    assert report.passed == (not report.reasons)
    return [check.name for check in report.checks if not check.passed]


def test_w_that_halves_every_loss_passes_all_checks():
    report = judge()
    assert report.passed
    assert [check.name for check in report.checks] == [
        "finite",
        "relative_delta",
        "held_out_total",
        "alignment/dynamics",
        "alignment/perception",
        "action_deviation",
        "actions_outside",
    ]


@pytest.mark.parametrize(("factor", "passes"), [(0.97, True), (0.99, False), (1.0, False)])
def test_total_must_fall_by_the_margin(factor, passes):
    report = judge(after=scaled(factor))
    assert failed(report) == ([] if passes else ["held_out_total"])


def test_no_margin_lets_an_equal_w_pass():
    config = GateConfig(min_improvement=0, min_improvement_errors=0)
    assert judge(after=LOSSES, config=config).passed


def test_an_equal_w_is_refused_in_words_that_say_so():
    (reason,) = judge(after=LOSSES).reasons
    assert reason.startswith("no better than the active W: held-out total is 3, now 3;")


# Eight stretches at +-size about the mean: its standard error is size * sqrt(8 / 7) / sqrt(8).
@pytest.mark.parametrize(("size", "passes"), [(0.7, True), (0.9, False)])
def test_total_must_fall_by_more_than_the_noise(size, passes):
    report = judge(after=scaled(0.5, total=wavy(2.7, size)))
    assert failed(report) == ([] if passes else ["held_out_total"])


def test_play_that_is_harder_in_places_is_no_noise():
    before, after = LOSSES | {"total": wavy(3.0, 2.5)}, scaled(0.5, total=wavy(2.7, 2.5))
    assert judge(before=before, after=after).passed


def test_neighbours_in_time_count_as_one_measurement():
    alternating = 2.7 + 0.9 * torch.tensor([-1.0, 1.0]).repeat(20)
    assert judge(after=scaled(0.5, total=alternating)).passed
    assert not judge(after=scaled(0.5, total=wavy(2.7, 0.9))).passed


def test_one_held_out_transition_proves_nothing():
    assert failed(judge(held_out=range(1))) == ["held_out_total"]


def test_one_loss_that_rises_fails_although_the_total_falls():
    report = judge(after=scaled(0.5, dynamics=1.6))
    assert failed(report) == ["alignment/dynamics"]
    assert "1.6" in report.reasons[0]
    assert "1.5" in report.reasons[0]


def test_moderate_rise_of_one_loss_passes():
    assert judge(after=scaled(0.5, dynamics=1.4)).passed


@pytest.mark.parametrize(("size", "passes"), [(0.6, False), (1.0, True)])
def test_rise_of_one_loss_within_its_noise_passes(size, passes):
    report = judge(after=scaled(0.5, dynamics=wavy(1.6, size)))
    assert failed(report) == ([] if passes else ["alignment/dynamics"])


@pytest.mark.parametrize(("perception", "passes"), [(0.017, True), (0.019, False)])
def test_rise_of_a_loss_near_zero_is_noise(perception, passes):
    before = LOSSES | {"perception": 0.008}
    report = judge(before=before, after=scaled(0.5, perception=perception))
    assert failed(report) == ([] if passes else ["alignment/perception"])


def test_loss_that_was_switched_off_may_rise():
    config = GateConfig(exempt_losses=("alignment/dynamics",))
    assert judge(after=scaled(0.5, dynamics=9.0), config=config).passed


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["total", "dynamics"])
def test_loss_that_is_not_finite_fails(name, value):
    assert failed(judge(after=scaled(0.5, **{name: value})))


def test_loss_that_is_missing_fails():
    after = scaled(0.5)
    del after["perception"]
    assert failed(judge(after=after)) == ["alignment/perception"]


def test_active_w_with_a_loss_that_is_not_finite_lets_nothing_pass():
    assert "held_out_total" in failed(judge(before=scaled(math.nan)))


def test_without_held_out_transitions_nothing_passes():
    report = judge(held_out=[])
    assert failed(report) == ["held_out_total"]
    assert "record more play" in report.reasons[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_candidate_that_is_not_finite_fails_before_it_is_run(value):
    bad = make_w(0.04)
    bad.b1[1, 1, 0, 2] = value
    report = judge(candidate=bad)
    assert [check.name for check in report.checks] == ["finite"]
    assert "1 values" in report.reasons[0]


def test_candidate_of_another_shape_fails_before_it_is_run():
    report = judge(candidate=make_w(0.04, dim=8))
    assert [check.name for check in report.checks] == ["finite"]
    assert "shapes" in report.reasons[0]


def test_w_that_moved_too_far_fails():
    # From 0.02 to 0.04 everywhere: the delta is as long as the base.
    assert judge(config=GateConfig(max_relative_delta=1.001)).passed
    assert failed(judge(config=GateConfig(max_relative_delta=0.999))) == ["relative_delta"]


def test_base_of_zero_allows_no_move_but_none():
    assert failed(judge(base=make_w(0.0))) == ["relative_delta"]
    zero = make_w(0.0)
    losses = FakeLosses(LOSSES, scaled(0.5))
    losses.answers[0.0] = scaled(0.5)
    report = run_gates(
        FakePolicy(),
        losses,
        held_out=HELD_OUT,
        active=ACTIVE,
        candidate=zero,
        base=zero,
        anchors=None,
        config=GateConfig(),
    )
    assert report.passed


def test_w_whose_square_overflows_is_measured_not_nan():
    losses = FakeLosses(LOSSES, LOSSES)
    losses.answers[round(1e30, 4)] = scaled(0.5)
    losses.answers[round(float(torch.tensor(1e30)), 4)] = scaled(0.5)
    report = run_gates(
        FakePolicy(),
        losses,
        held_out=HELD_OUT,
        active=ACTIVE,
        candidate=make_w(1e30),
        base=BASE,
        anchors=None,
        config=GateConfig(),
    )
    assert failed(report) == ["relative_delta"]
    assert report.checks[1].value == pytest.approx(5e31, rel=1e-3)


def test_useful_w_may_turn_every_action_round():
    assert judge(policy=FakePolicy(before=0.8, after=-0.8)).passed


def test_actions_that_blow_up_fail():
    assert failed(judge(policy=FakePolicy(after=40.0))) == ["action_deviation", "actions_outside"]


def test_actions_far_outside_the_limits_fail_although_they_moved_little():
    report = judge(policy=FakePolicy(before=1.4, after=1.6))
    assert failed(report) == ["actions_outside"]


def test_candidate_is_not_blamed_for_what_the_active_w_does_too():
    assert judge(policy=FakePolicy(before=1.6, after=1.6)).passed


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_actions_that_are_not_finite_fail(value):
    after = torch.zeros(5, 3)
    after[2, 1] = value
    assert "action_deviation" in failed(judge(policy=FakePolicy(after=after)))


def test_actions_that_the_robot_does_not_have_are_not_judged():
    after = torch.tensor([0.1, 0.1, 1e6])
    assert not judge(policy=FakePolicy(after=after)).passed
    assert judge(
        policy=FakePolicy(after=after), action_mask=torch.tensor([True, True, False])
    ).passed


def test_both_chunks_come_from_the_same_noise_and_it_is_repeatable():
    policy = FakePolicy(spread=0.5)
    first, second = judge(policy=policy), judge(policy=policy)
    assert first == second
    assert torch.equal(policy.noise[0], policy.noise[1])
    deviation = next(check for check in first.checks if check.name == "action_deviation")
    assert deviation.value == 0.0


def test_without_anchors_actions_are_not_compared():
    names = [check.name for check in judge(anchors=None).checks]
    assert not any("action" in name for name in names)


def test_gates_do_not_change_any_w():
    before = [w.W1.clone() for w in (BASE, ACTIVE, CANDIDATE)]
    judge()
    assert all(torch.equal(w.W1, x) for w, x in zip((BASE, ACTIVE, CANDIDATE), before, strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_improvement": -0.1},
        {"min_improvement": 1.0},
        {"min_improvement": math.nan},
        {"min_improvement_errors": math.nan},
        {"max_single_increase": math.nan},
        {"max_increase_errors": math.inf},
        {"max_small_increase": math.inf},
        {"max_relative_delta": 0},
        {"max_relative_delta": math.nan},
        {"max_action_deviation": math.inf},
        {"action_range": math.nan},
        {"max_share_outside": 1.1},
        {"max_share_outside": math.nan},
        {"noise_seed": -1},
        {"max_norm": 3},
    ],
)
def test_limit_that_would_switch_a_gate_off_is_refused(wrong):
    with pytest.raises(ValidationError):
        GateConfig(**wrong)
