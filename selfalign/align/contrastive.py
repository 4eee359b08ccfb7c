"""The contrastive loss of embodiments: what play teaches W must name the robot, not its looks.

The embedding of a batch of play is the last inner step that alignment takes on it: the direction of
steepest descent of the alignment loss with respect to W. The same play in other light must move W
the same way (positive); the same play of a robot that numbers its actions otherwise must move it
another way (negatives). The gradient of this loss is of second order: it runs through the inner
step into W and into every weight that the step depends on. docs/contrastive_learning.md.

Shape key: n embodiments, m transitions of each, K negatives, G batches of play, B = G * m, D
numbers of W.
"""

from dataclasses import dataclass
from typing import final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from selfalign.align.batch import TransitionBatch
from selfalign.align.losses import AlignmentLosses
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights


class ContrastiveConfig(BaseModel):
    """The numbers of the loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(0.07, gt=0, allow_inf_nan=False)
    num_negative_samples: int = Field(4, ge=1, description="Negatives of each embodiment")


@final
@dataclass(frozen=True)
class ContrastiveReport:
    """`loss` [] carries the gradient: the mean over embodiments. The rest is detached.

    `accuracy` is the share of embodiments whose positive is nearer than all negatives; `positive`
    and `negative` are mean cosines to the anchor.
    """

    loss: Tensor
    accuracy: Tensor
    positive: Tensor
    negative: Tensor

    @property
    def metrics(self) -> dict[str, float]:
        """Under the public names `contrastive/...`."""
        return {
            "contrastive/loss": float(self.loss.detach()),
            "contrastive/accuracy": float(self.accuracy),
            "contrastive/positive": float(self.positive),
            "contrastive/negative": float(self.negative),
        }


@final
class EmbodimentContrastiveLoss:
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, equation 4) over inner steps."""

    def __init__(self, losses: AlignmentLosses, config: ContrastiveConfig | None = None) -> None:
        self.losses = losses
        self.config = config or ContrastiveConfig()

    def __call__(
        self,
        policy: Policy,
        anchor: TransitionBatch,
        positive: TransitionBatch,
        negatives: TransitionBatch,
        w: FastWeights,
    ) -> ContrastiveReport:
        """The loss of n embodiments at their W, batched with n groups.

        Args:
            policy: with plain attention: fused attention has no second derivative.
            anchor: n * m transitions, those of one embodiment together.
            positive: the same in other looks.
            negatives: n * K * m, first all negatives of the first embodiment.
            w: batched, n groups.

        Raises:
            ValueError: W is not batched, or the rows do not divide among the embodiments.
        """
        n, k = w.groups, self.config.num_negative_samples
        if n is None or len(anchor) % n:
            raise ValueError(f"{len(anchor)} transitions do not divide among {n or 'unbatched'} W")
        if (len(positive), len(negatives)) != (len(anchor), k * len(anchor)):
            raise ValueError(
                f"{len(anchor)} anchors need as many positives and {k * len(anchor)} negatives, "
                f"got {len(positive)} and {len(negatives)}"
            )
        each = torch.arange(n, device=w.W1.device)
        order = torch.cat([each, each, each.repeat_interleave(k)])
        play = TransitionBatch.cat([anchor, positive, negatives])
        steps_GD = inner_step(policy, self.losses, play, w.select(order))
        a, p, others = steps_GD.split([n, n, n * k])
        return info_nce(a, p, others.unflatten(0, (n, k)), self.config.temperature)


def inner_step(
    policy: Policy, losses: AlignmentLosses, batch: TransitionBatch, w: FastWeights
) -> Tensor:
    """Unit vectors [G, D]: where alignment moves each W on its batch of play, W1 first, then b1.

    Plain steepest descent. Adam's first step is a sign, which has no derivative, and its later
    ones are mostly memory of other batches.
    """
    w = w.map(lambda t: t if t.requires_grad else t.detach().requires_grad_())
    with torch.enable_grad():
        total = losses(policy, batch, w).total
        gradient = torch.autograd.grad(total, [w.W1, w.b1], create_graph=True)
        flat = torch.cat([g.flatten(1) for g in gradient], dim=1)
        return F.normalize(-flat, dim=1)


def info_nce(
    anchor_nD: Tensor, positive_nD: Tensor, negatives_nKD: Tensor, temperature: float
) -> ContrastiveReport:
    """Cross entropy of telling the positive from K negatives by cosine; inputs are unit vectors."""
    positive = (anchor_nD * positive_nD).sum(-1)
    negative = torch.einsum("nd,nkd->nk", anchor_nD, negatives_nKD)
    logits = torch.cat([positive[:, None], negative], dim=1) / temperature
    target = logits.new_zeros(len(logits), dtype=torch.int64)
    return ContrastiveReport(
        F.cross_entropy(logits, target),
        (positive > negative.amax(1)).float().mean().detach(),
        positive.detach().mean(),
        negative.detach().mean(),
    )
