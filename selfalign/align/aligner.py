"""Stage 2: improve W, and only W, on transitions. A plain function of its inputs.

The optimiser is Adam, written out for the two tensors of W, with the settings of stage 1's pool.
"""

from dataclasses import dataclass, replace
from typing import Final, Self, final

import torch
from pydantic import Field
from torch import Tensor

from selfalign.align.batch import TransitionBatch
from selfalign.align.cached_transitions import CachedTransitions
from selfalign.align.losses import AlignmentLosses, LossWeights
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights

Transitions = TransitionBatch | CachedTransitions

STEPS: Final = 25
"""Steps of a session. More fit its play more closely and other play of the robot less."""


class AlignmentConfig(LossWeights):
    """How transitions become a new W."""

    learning_rate: float = Field(0.02, gt=0, description="Adam step on W (scaled about 0.02)")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    epsilon: float = Field(1e-6, gt=0)
    batch_size: int = Field(32, ge=1, description="Transitions per step")
    steps: int = Field(
        STEPS, ge=1, description="Steps of a session, unless its budget says otherwise"
    )
    micro_batch: int | None = Field(
        None, ge=1, description="Accumulate gradients over parts this big"
    )


@final
@dataclass(frozen=True)
class AlignState:
    """W after `step` steps, Adam's moments, and the metrics of the last step."""

    w: FastWeights
    first: FastWeights
    second: FastWeights
    step: int
    metrics: dict[str, float]

    @classmethod
    def start(cls, w: FastWeights) -> Self:
        """Step 0 from a given W."""
        zero = w.map(torch.zeros_like)
        return cls(w.detach(), zero, zero, 0, {})


@final
class Aligner:
    """Adam on W over the alignment losses. Holds no state; may be used from any one thread."""

    def __init__(self, policy: Policy, config: AlignmentConfig | None = None) -> None:
        self.policy = policy
        self.config = config or AlignmentConfig()
        self.losses = AlignmentLosses(self.config)

    def start(self, w: FastWeights) -> AlignState:
        """The state before the first step."""
        return AlignState.start(w)

    def step(self, batch: Transitions, state: AlignState) -> AlignState:
        """One Adam step on W. Neither `batch` nor `state` is changed."""
        gradient, metrics = self.gradient(batch, state.w)
        w, first, second = adam_step(
            state.w, gradient, state.first, state.second, state.step + 1, self.config
        )
        return replace(state, w=w, first=first, second=second, step=state.step + 1, metrics=metrics)

    def gradient(self, batch: Transitions, w: FastWeights) -> tuple[FastWeights, dict[str, float]]:
        """Gradient of the mean loss with respect to W, and the metrics of this batch.

        Of transitions that are still on disk, one micro-batch at a time is in memory.
        """
        leaf = w.map(lambda tensor: tensor.detach().clone().requires_grad_())
        metrics: dict[str, float] = {}
        gradient = w.map(torch.zeros_like)
        for rows in self._parts(len(batch), w.groups):
            chosen = batch if len(rows) == len(batch) else batch.index(rows)
            part = chosen if isinstance(chosen, TransitionBatch) else chosen.load()
            share = len(rows) / len(batch)
            with torch.enable_grad():
                report = self.losses(self.policy, part, leaf)
                parts = torch.autograd.grad(report.total * share, [leaf.W1, leaf.b1])
            gradient = gradient.combine(
                FastWeights(parts[0], parts[1], w.layers), lambda a, b: a + b
            )
            for name, value in report.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + share * value
        return gradient, metrics

    def _parts(self, length: int, groups: int | None) -> list[Tensor]:
        """Row indices of the micro-batches; a batch of several W is never cut."""
        size = self.config.micro_batch if groups is None else None
        return list(torch.arange(length).split(size or length))


def adam_step(
    w: FastWeights,
    gradient: FastWeights,
    first: FastWeights,
    second: FastWeights,
    step: Tensor | int,
    config: AlignmentConfig,
) -> tuple[FastWeights, FastWeights, FastWeights]:
    """Adam (Kingma & Ba 2015, algorithm 1). `step` counts from 1; [G] where members differ in age.

    Returns the new W and both moments.
    """
    b1, b2 = config.beta1, config.beta2
    first = first.combine(gradient, lambda m, g: b1 * m + (1 - b1) * g)
    second = second.combine(gradient, lambda v, g: b2 * v + (1 - b2) * g.square())
    move = first.combine(
        second,
        lambda m, v: (
            m / _correction(b1, step, m) / ((v / _correction(b2, step, v)).sqrt() + config.epsilon)
        ),
    )
    return w.combine(move, lambda p, d: p - config.learning_rate * d), first, second


def _correction(beta: float, step: Tensor | int, like: Tensor) -> Tensor | float:
    """Bias correction 1 - beta^step, shaped to divide a (batched) tensor of W."""
    if isinstance(step, int):
        return 1 - beta**step
    return (1 - beta ** step.to(like.dtype)).reshape(-1, *([1] * (like.dim() - 1)))
