"""The contrastive loss: its value, and that its gradient reaches what is trained."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from selfalign.align.batch import TransitionBatch
from selfalign.align.contrastive import (
    ContrastiveConfig,
    EmbodimentContrastiveLoss,
    info_nce,
    inner_step,
)
from selfalign.align.losses import AlignmentLosses
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights
from tests.fakes.models import random_numbers, random_policy, random_w
from tests.fakes.transitions import random_transitions

N, M, K = 2, 3, 4


def trainable() -> Policy:
    policy = random_policy()
    policy.use_eager_attention(True)
    return policy.requires_grad_(True)


def renumbered(batch: TransitionBatch) -> TransitionBatch:
    """K negatives of each embodiment: its actions with other signs and in another order."""
    parts = []
    for i in range(N):
        one = batch.index(torch.arange(i * M, (i + 1) * M))
        for shift in range(1, K + 1):
            actions = -one.actions.clone()
            actions[..., :4] = actions[..., :4].roll(shift % 4, -1)
            parts.append(replace(one, actions=actions))
    return TransitionBatch.cat(parts)


@torch.no_grad()
def views(policy: Policy) -> tuple[TransitionBatch, TransitionBatch, TransitionBatch]:
    anchor = random_transitions(policy, N * M)
    noise = 0.02 * random_numbers(*anchor.now.key_values.shape, seed=9)
    looks = replace(anchor.now, key_values=anchor.now.key_values + noise)
    return anchor, replace(anchor, now=looks), renumbered(anchor)


def unit(*rows: list[float]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=-1)


def test_loss_is_the_cross_entropy_of_the_cosines() -> None:
    anchor, positive = unit([1.0, 0.0], [0.0, 1.0]), unit([1.0, 1.0], [0.0, 2.0])
    negatives = torch.stack([unit([0.0, 1.0], [-1.0, 0.0]), unit([1.0, 3.0], [3.0, 1.0])])
    report = info_nce(anchor, positive, negatives, 0.5)
    first = -math.log(
        math.exp(0.5**0.5 / 0.5) / (math.exp(0.5**0.5 / 0.5) + math.exp(0.0) + math.exp(-1.0 / 0.5))
    )
    b, c = 3 / 10**0.5, 1 / 10**0.5
    second = -math.log(
        math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(b / 0.5) + math.exp(c / 0.5))
    )
    assert float(report.loss) == pytest.approx((first + second) / 2, rel=1e-5)
    assert float(report.accuracy) == 1.0
    assert float(report.positive) == pytest.approx((0.5**0.5 + 1) / 2, rel=1e-5)


def test_negatives_that_are_the_anchor_cannot_be_told_apart() -> None:
    anchor = unit([1.0, 2.0])
    report = info_nce(anchor, anchor, anchor[:, None].expand(-1, 4, -1), 0.07)
    assert float(report.loss) == pytest.approx(math.log(5), rel=1e-5)
    assert float(report.accuracy) == 0.0


def test_inner_step_is_the_direction_in_which_alignment_descends() -> None:
    policy = trainable()
    losses, w = AlignmentLosses(), random_w(policy, groups=N)
    batch = random_transitions(policy, N * M)
    steps = inner_step(policy, losses, batch, w)
    torch.testing.assert_close(steps.norm(dim=1), torch.ones(N))
    before = losses(policy, batch, w).by_group["total"]
    cut = w.W1[0].numel()
    size = 1e-3
    moved = FastWeights(
        w.W1 + size * steps[:, :cut].reshape(w.W1.shape),
        w.b1 + size * steps[:, cut:].reshape(w.b1.shape),
        w.layers,
    )
    assert (losses(policy, batch, moved).by_group["total"] < before).all()
    # Of each group alone: the other's play does not move it.
    alone = inner_step(policy, losses, batch.index(torch.arange(M)), w.select(torch.tensor([0])))
    torch.testing.assert_close(alone[0], steps[0], atol=1e-5, rtol=1e-4)


def loss_of(policy: Policy, w: FastWeights) -> Tensor:
    return EmbodimentContrastiveLoss(AlignmentLosses())(policy, *views(policy), w).loss


def test_gradient_reaches_w_and_every_part_of_the_trunk() -> None:
    policy = trainable()
    leaf = random_w(policy, groups=N).map(lambda t: t.requires_grad_())
    loss_of(policy, leaf.combine(policy.live_w0(), torch.add)).backward()

    for name, gradient in (
        ("W1", leaf.W1.grad),
        ("b1", leaf.b1.grad),
        ("w0_W1", policy.w0_W1.grad),
        ("w0_b1", policy.w0_b1.grad),
    ):
        assert gradient is not None, name
        assert (gradient != 0).flatten(-3).any(-1).all(), name
    # Biases of the heads and of the norms behind W shift the residual alone; weights all count.
    trunk = {
        "action.layers.0.self_attn.q_proj.weight",
        "action.layers.0.mlp.up_proj.weight",
        "action.layers.1.ttt.q_proj.weight",
        "action.layers.1.ttt.o_proj.weight",
        "action.layers.1.ttt.gate",
        "action_in_proj.weight",
        "state_proj.weight",
        "alignment.queries",
        "alignment.change_in.weight",
        "alignment.expert.layers.0.mlp.up_proj.weight",
        "alignment.perception_head.weight",
        "alignment.inverse_dynamics_head.weight",
        "alignment.dynamics_head.weight",
    }
    parameters = dict(policy.named_parameters())
    for name in trunk:
        gradient = parameters[name].grad
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
    # The prefix came from a cache: vision and language stay as they are.
    assert all(
        p.grad is None for n, p in parameters.items() if n.startswith(("vision.", "language."))
    )


@pytest.mark.parametrize("name", ["w0_W1", "action.layers.1.ttt.q_proj.weight"])
def test_gradient_is_the_slope_of_the_loss(name: str) -> None:
    policy = trainable()
    parameter = dict(policy.named_parameters())[name]
    w = random_w(policy, groups=N)
    batches = views(policy)

    def loss() -> Tensor:
        full = w.combine(policy.live_w0(), torch.add)
        return EmbodimentContrastiveLoss(AlignmentLosses())(policy, *batches, full).loss

    loss().backward()
    assert parameter.grad is not None
    direction = parameter.grad / parameter.grad.norm()
    size = 3e-3
    values = []
    for shift in (size, -2 * size):
        with torch.no_grad():
            parameter.add_(shift * direction)
        values.append(float(loss().detach()))
    slope = (values[0] - values[1]) / (2 * size)
    assert slope == pytest.approx(float((parameter.grad * direction).sum()), rel=0.03)


def test_descent_on_the_loss_makes_embodiments_tell_apart() -> None:
    policy = trainable()
    w = random_w(policy, groups=N)
    batches = views(policy)
    # Warm, so that embodiments of a random policy are not told apart at once.
    loss = EmbodimentContrastiveLoss(AlignmentLosses(), ContrastiveConfig(temperature=0.5))
    trunk = [p for n, p in policy.named_parameters() if n.startswith(("action", "alignment"))]
    optimiser = torch.optim.Adam(trunk, 1e-3)
    reports = []
    for _ in range(12):
        optimiser.zero_grad(set_to_none=True)
        reports.append(loss(policy, *batches, w))
        reports[-1].loss.backward()
        optimiser.step()
    assert reports[-1].loss.detach() < 0.9 * reports[0].loss.detach()
    assert reports[-1].positive - reports[-1].negative > reports[0].positive - reports[0].negative


def test_w_without_gradient_is_taken_too_and_left_alone() -> None:
    policy = trainable()
    w = random_w(policy, groups=N)
    before = w.detach()
    loss_of(policy, w).backward()
    assert not w.W1.requires_grad
    assert torch.equal(w.W1, before.W1)
    assert policy.state_proj.weight.grad is not None


def test_metrics_have_public_names() -> None:
    report = info_nce(unit([1.0, 0.0]), unit([1.0, 0.1]), unit([0.0, 1.0])[None], 0.07)
    assert set(report.metrics) == {
        f"contrastive/{name}" for name in ("loss", "accuracy", "positive", "negative")
    }


def test_rows_that_do_not_fit_are_refused() -> None:
    policy = trainable()
    anchor, positive, negatives = views(policy)
    loss = EmbodimentContrastiveLoss(AlignmentLosses(), ContrastiveConfig(num_negative_samples=3))
    with pytest.raises(ValueError, match="18 negatives, got 6 and 24"):
        loss(policy, anchor, positive, negatives, random_w(policy, groups=N))
    with pytest.raises(ValueError, match="unbatched W"):
        loss(policy, anchor, positive, negatives, random_w(policy))
