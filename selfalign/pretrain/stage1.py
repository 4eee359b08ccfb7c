"""Stage 1b: the losses of the persistent inner loop on cached prefixes.

Every iteration: trunk, heads and W0 take one step on action and alignment loss, given each slot's
delta held constant; each slot's delta takes one Adam step on the alignment loss only. So the policy
only ever meets W's that alignment produced, at every age, by the very procedure of stage 2.

The slots of an iteration may be cut into parts. Every part's losses are its share of those of the
whole iteration, so losses and gradients of all parts add up to what one pass would give.

Shape key: n slots of one part, N slots of the iteration, B policy frames, H horizon, A action
numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from selfalign.align.losses import AlignmentLosses, LossReport
from selfalign.model.policy import Policy
from selfalign.model.rtc import training_times
from selfalign.model.weights import FastWeights
from selfalign.pretrain.batches import PolicyFrames, SlotBatch
from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.stage1_data import E, TrainingData


@final
@dataclass(frozen=True)
class Whole:
    """What the losses of a whole iteration are means over: N slots, and so many action numbers."""

    slots: int
    numbers: int

    @classmethod
    def of(
        cls, policy: Policy, data: TrainingData[E], embodiments: Sequence[E], config: Stage1Config
    ) -> Self:
        """Of all embodiments of an iteration, wherever they are computed."""
        numbers = sum(data.action_numbers(embodiment) for embodiment in embodiments)
        return cls(len(embodiments), numbers * config.demo_frames * policy.config.horizon)


@final
@dataclass(frozen=True)
class PartLosses:
    """A part's share of an iteration's losses.

    `total` trains the trunk; `leaf` are the deltas [n], whose gradient is the alignment loss's.
    The first half of the groups in `alignment` are the slots on their support transitions, the
    second half the same slots on their query transitions.
    """

    total: Tensor
    alignment: LossReport
    action: Tensor
    leaf: FastWeights
    whole: Whole

    @property
    def metrics(self) -> dict[str, float]:
        """Losses on support as `alignment/<loss>`, on query as `query/<loss>`; parts add up."""
        out = {"action": float(self.action.detach())}
        for name, loss in self.alignment.by_group.items():
            support, query = loss.chunk(2)
            out |= {
                f"alignment/{name}": float(support.sum()) / self.whole.slots,
                f"query/{name}": float(query.sum()) / self.whole.slots,
            }
        return out

    def slot_gradient(self) -> FastWeights:
        """Gradient of each slot's own alignment loss, after the backward pass of `total`.

        The trunk's loss is a mean over slots; a slot's own gradient must not be divided by them.
        """
        W1, b1 = self.leaf.W1.grad, self.leaf.b1.grad
        assert W1 is not None, "slot_gradient() before backward()"
        assert b1 is not None
        groups = 2 * self.whole.slots
        return FastWeights(W1 * groups, b1 * groups, self.leaf.layers)


def outer_and_inner(
    policy: Policy,
    losses: AlignmentLosses,
    batch: SlotBatch,
    delta: FastWeights,
    whole: Whole,
    config: Stage1Config,
) -> PartLosses:
    """The losses of one part of an iteration.

    The action loss takes delta as a constant, and so does the alignment loss on transitions that
    delta was not fitted to: else the trunk would be rewarded for learning them by heart through
    delta, not for what delta says about the robot.
    """
    leaf = delta.map(lambda t: t.detach().clone().requires_grad_())
    w0 = policy.live_w0()
    both = leaf.combine(delta, lambda a, b: torch.cat([a, b]))
    device = policy.device.type
    with torch.autocast(device, torch.bfloat16, enabled=config.bfloat16):
        report = losses(policy, batch.transitions, both.combine(w0, torch.add))
        action = action_loss(policy, batch.frames, delta.combine(w0, torch.add), whole)
    total = config.action_weight * action + report.total / (2 * whole.slots)
    return PartLosses(total, report, action, leaf, whole)


def action_loss(policy: Policy, frames: PolicyFrames, w: FastWeights, whole: Whole) -> Tensor:
    """A part's share of the flow-matching loss, given W, over the numbers that each robot has.

    A model for frozen starts (`trained_delay`) learns to go on from 0 to so many actions.
    """
    times, longest = frames.time, policy.config.trained_delay
    if longest:
        times = training_times(times, (frames.start * (longest + 1)).long(), policy.config.horizon)
    error = policy.action_loss(
        frames.prefix, frames.state, frames.chunk, w, noise=frames.noise, time_B=times
    )
    weight = frames.mask[:, None].to(error.dtype)
    if longest:
        weight = weight * (times > 0)[..., None]
    return (error * weight).sum() / whole.numbers / policy.config.action_scale**2


@contextmanager
def compiled(policy: Policy, *, enabled: bool) -> Iterator[None]:
    """Run the trained stacks compiled. Only for the fixed shapes of training: others recompile."""
    stacks = (policy.action, policy.alignment.expert) if enabled else ()
    for stack in stacks:
        own = vars(stack)
        if "compiled_forward" not in own:
            own["compiled_forward"] = torch.compile(stack.forward, dynamic=False)
        own["forward"] = own["compiled_forward"]
    try:
        yield
    finally:
        for stack in stacks:
            del vars(stack)["forward"]


def canonical_share(config: Stage1Config, progress: float) -> float:
    """The curriculum: the share of canonical embodiments among new ones, falling linearly."""
    fallen = min(1.0, progress / config.canonical_until)
    return config.canonical_start + fallen * (config.canonical_end - config.canonical_start)
