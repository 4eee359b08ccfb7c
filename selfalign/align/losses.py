"""The three self-supervised losses of alignment and their weighted sum.

Shape key: B transitions, G groups that share one W, k stride.
"""

from dataclasses import dataclass
from typing import final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from selfalign.align.batch import TransitionBatch
from selfalign.model.alignment import AlignmentPrediction
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights

NAMES = ("perception", "inverse_dynamics", "dynamics")


class LossWeights(BaseModel):
    """Weights lambda of the losses. 0 switches one off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lambda_perception: float = Field(1.0, ge=0, allow_inf_nan=False)
    lambda_inverse_dynamics: float = Field(1.0, ge=0, allow_inf_nan=False)
    lambda_dynamics: float = Field(1.0, ge=0, allow_inf_nan=False)

    def of(self, name: str) -> float:
        """The weight of one loss by its name."""
        return float(getattr(self, f"lambda_{name}"))


@final
@dataclass(frozen=True)
class LossReport:
    """`total` carries the gradient: [] or, with a batch of W, the sum over its G members.

    `by_group` holds the detached loss of each name for each group, [G] (G = 1 for a single W),
    `by_transition` that of each transition [B]; both have `total`, too.
    """

    total: Tensor
    by_group: dict[str, Tensor]
    by_transition: dict[str, Tensor]

    @property
    def metrics(self) -> dict[str, float]:
        """Means over groups, under the public names `alignment/<loss>` and `alignment/total`."""
        return {f"alignment/{name}": float(value.mean()) for name, value in self.by_group.items()}


@final
class AlignmentLosses:
    """Masked, scaled squared errors of the three heads. 1 is roughly a prediction of the mean."""

    def __init__(self, weights: LossWeights | None = None) -> None:
        self.weights = weights or LossWeights()

    def __call__(self, policy: Policy, batch: TransitionBatch, w: FastWeights) -> LossReport:
        """Losses of W on transitions. With G batched W, transition i uses W number i // (B / G)."""
        prediction = policy.alignment_pass(
            batch.now, batch.following, batch.state, batch.actions, w
        )
        losses = per_transition(policy, batch, prediction)
        groups = w.groups or 1
        by_group = {name: loss.unflatten(0, (groups, -1)).mean(1) for name, loss in losses.items()}
        total = self._weighted(by_group)
        detached = {name: value.detach() for name, value in by_group.items()}
        single = {name: loss.detach() for name, loss in losses.items()}
        return LossReport(
            total.sum(),
            detached | {"total": total.detach()},
            single | {"total": self._weighted(single)},
        )

    def _weighted(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.weights.of(name) * losses[name] for name in NAMES]).sum(0)


def per_transition(
    policy: Policy, batch: TransitionBatch, prediction: AlignmentPrediction
) -> dict[str, Tensor]:
    """Unweighted losses of every transition, [B] each."""
    config = policy.config
    cameras = batch.now.features.shape[1]
    spread = policy.vision.readout.spread
    change = prediction.feature_change[:, :cameras] - batch.feature_change / spread
    both = (batch.now.feature_mask & batch.following.feature_mask)[..., None].expand_as(change)
    state = prediction.state - batch.state / config.state_scale
    actions = prediction.actions - batch.actions / config.action_scale
    action_mask = batch.action_mask[:, None].expand_as(actions)
    return {
        "perception": _masked_mean(state.square(), batch.state_mask),
        "inverse_dynamics": _masked_mean(actions.square(), action_mask),
        "dynamics": _masked_mean(change.square(), both),
    }


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all axes but the first, over entries where the mask is True: [B]."""
    weight = mask.to(values.dtype)
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1.0)
