"""The three losses: their targets, masks, weights and groups."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from selfalign.align.losses import NAMES, AlignmentLosses, LossWeights, per_transition
from selfalign.model.alignment import AlignmentPrediction
from tests.fakes.models import random_numbers, random_policy, random_w
from tests.fakes.transitions import ACTION_NUMBERS, STATE_NUMBERS, random_transitions

PADDED = 100.0


def loss_weights(**on: float) -> LossWeights:
    return LossWeights(**{f"lambda_{name}": on.get(name, 0.0) for name in NAMES})


def test_prediction_of_the_targets_in_their_units_has_no_loss() -> None:
    policy = random_policy(state_scale=0.2, action_scale=0.5)
    policy.vision.readout.spread.fill_(3.0)
    batch = random_transitions(policy)
    change = torch.zeros(4, policy.config.max_cameras, policy.config.feature_dim)
    change[:, :2] = batch.feature_change / 3.0
    perfect = AlignmentPrediction(batch.state / 0.2, batch.actions / 0.5, change)
    for name, loss in per_transition(policy, batch, perfect).items():
        torch.testing.assert_close(loss, torch.zeros(4), msg=name)


def test_losses_are_means_of_squares_over_what_the_robot_has() -> None:
    policy = random_policy()
    batch = random_transitions(policy)
    off_by_two = AlignmentPrediction(
        batch.state + 2, batch.actions + 2, torch.zeros(4, 3, policy.config.feature_dim)
    )
    losses = per_transition(policy, batch, off_by_two)
    torch.testing.assert_close(losses["perception"], torch.full((4,), 4.0))
    torch.testing.assert_close(losses["inverse_dynamics"], torch.full((4,), 4.0))
    expected = (batch.feature_change / policy.vision.readout.spread).square().flatten(1).mean(1)
    torch.testing.assert_close(losses["dynamics"], expected)


def test_padded_numbers_and_absent_cameras_do_not_count() -> None:
    policy = random_policy()
    batch = random_transitions(policy)
    cameras = batch.now.feature_mask.clone()
    cameras[:, 1] = False
    batch = replace(batch, now=replace(batch.now, feature_mask=cameras))
    right = AlignmentPrediction(
        batch.state.clone(), batch.actions.clone(), torch.zeros(4, 3, policy.config.feature_dim)
    )
    wrong = AlignmentPrediction(
        right.state.clone(), right.actions.clone(), right.feature_change.clone()
    )
    wrong.state[:, STATE_NUMBERS:] = PADDED
    wrong.actions[..., ACTION_NUMBERS:] = PADDED
    wrong.feature_change[:, 1:] = PADDED
    one, other = (per_transition(policy, batch, p) for p in (right, wrong))
    for name in NAMES:
        assert torch.equal(one[name], other[name]), name


def test_transition_without_any_camera_has_no_dynamics_loss() -> None:
    policy = random_policy()
    batch = random_transitions(policy)
    none = torch.zeros_like(batch.now.feature_mask)
    batch = replace(batch, following=replace(batch.following, feature_mask=none))
    prediction = AlignmentPrediction(batch.state, batch.actions, random_numbers(4, 3, 6))
    assert per_transition(policy, batch, prediction)["dynamics"].tolist() == [0.0] * 4


@pytest.mark.parametrize("name", NAMES)
def test_only_losses_with_a_weight_count_but_all_are_reported(name: str) -> None:
    policy = random_policy()
    batch, w = random_transitions(policy), random_w(policy)
    every = AlignmentLosses()(policy, batch, w)
    one = AlignmentLosses(loss_weights(**{name: 3.0}))(policy, batch, w)
    torch.testing.assert_close(one.total, 3 * every.by_group[name].squeeze())
    assert one.metrics.keys() == {f"alignment/{n}" for n in (*NAMES, "total")}
    assert one.metrics["alignment/dynamics"] == every.metrics["alignment/dynamics"]


@pytest.mark.parametrize("name", NAMES)
def test_loss_switched_off_sends_no_gradient(name: str) -> None:
    policy = random_policy()
    batch = random_transitions(policy)
    losses = AlignmentLosses(LossWeights(**{f"lambda_{name}": 0.0}))
    w = random_w(policy).map(lambda t: t.requires_grad_())
    before = torch.autograd.grad(losses(policy, batch, w).total, w.W1)[0]
    # The bias of a head moves its own prediction and no other.
    with torch.no_grad():
        getattr(policy.alignment, f"{name}_head").bias += 5
    after = torch.autograd.grad(losses(policy, batch, w).total, w.W1)[0]
    assert torch.equal(before, after)


def test_groups_have_their_own_losses_and_the_total_is_their_sum() -> None:
    policy = random_policy()
    batch, w = random_transitions(policy, 6), random_w(policy, 3)
    losses = AlignmentLosses()
    together = losses(policy, batch, w)
    alone = [
        losses(policy, batch.index(torch.tensor(rows)), w.select(torch.tensor(group)))
        for group, rows in enumerate(([0, 1], [2, 3], [4, 5]))
    ]
    for name in (*NAMES, "total"):
        assert together.by_group[name].shape == (3,)
        expected = torch.stack([one.by_group[name].squeeze() for one in alone])
        torch.testing.assert_close(together.by_group[name], expected, rtol=1e-4, atol=1e-5)
        assert together.metrics[f"alignment/{name}"] == pytest.approx(float(expected.mean()), 1e-4)
    torch.testing.assert_close(together.total, torch.stack([o.total for o in alone]).sum())


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_weight_that_is_no_weight_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="lambda_dynamics"):
        LossWeights(lambda_dynamics=value)
