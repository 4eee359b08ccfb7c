"""Stage 1b: the persistent inner loop on cached prefixes.

Every iteration: trunk, heads and W0 take one step on action and alignment loss, given each slot's
delta held constant; each slot's delta takes one Adam step on the alignment loss only. So the policy
only ever meets W's that alignment produced, at every age, by the very procedure of stage 2.

Shape key: n slots of one iteration, B = n * transitions or n * demo frames, H horizon, A action
numbers, k stride.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfalign.align.batch import TransitionBatch
from selfalign.align.losses import AlignmentLosses, LossReport
from selfalign.data.recording import Recording
from selfalign.errors import StoreError
from selfalign.model.flow import sample_time
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.model.weights import FastWeights
from selfalign.pretrain.cache import PrefixCache, play_length
from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.embodiments import (
    Embodiment,
    Group,
    draw_space,
    load_groups,
    normalised_states,
    relabel,
)
from selfalign.pretrain.hindsight import LabelledPlay

Part = Literal["support", "query"]
PARTS: tuple[Part, Part] = ("support", "query")
E = TypeVar("E")


class TrainingData(Protocol[E]):
    """What stage 1 asks of its data; E is what the data call an embodiment."""

    def draw(self, seed: int, group_seed: int, canonical: float, config: Stage1Config) -> E:
        """See `Stage1Data`."""

    def held_out(self, config: Stage1Config, count: int, seed: int) -> dict[str, list[E]]:
        """See `Stage1Data`."""

    def transitions(
        self, embodiments: list[E], rng: np.random.Generator, count: int, part: Part
    ) -> TransitionBatch:
        """See `Stage1Data`."""

    def demonstrations(
        self, embodiments: list[E], rng: np.random.Generator, count: int
    ) -> tuple[Prefix, Tensor, Tensor, Tensor]:
        """See `Stage1Data`."""

    def policy_frames(
        self, embodiments: list[E], rng: np.random.Generator, count: int
    ) -> tuple[Prefix, Tensor, Tensor, Tensor]:
        """See `Stage1Data`."""


@final
class Stage1Data:
    """Recording, cache and groups; draws embodiments and cuts batches.

    The last `held_out` groups are never trained on. Raises StoreError when the recording has no
    usable group to train on, or none to hold out.
    """

    def __init__(
        self,
        policy: Policy,
        recording: Recording,
        cache: PrefixCache,
        held_out: int,
        labelled: LabelledPlay | None = None,
    ) -> None:
        self.policy = policy
        self.labelled = labelled
        self.recording = recording
        self.cache = cache
        groups = load_groups(recording, policy.config)
        states, mask = normalised_states(recording, groups, policy.config.state_dim)
        self.states, self.state_mask = torch.from_numpy(states), torch.from_numpy(mask)
        self.train_groups = [g for g in groups[:-held_out] if _is_usable(g)]
        self.held_out_groups = [g for g in groups[-held_out:] if _is_usable(g)]
        if not self.train_groups or not self.held_out_groups:
            raise StoreError(
                f"{recording.directory} has {len(self.train_groups)} usable groups to train on and "
                f"{len(self.held_out_groups)} of {held_out} held out; record more groups or demos"
            )
        self.play_length = play_length(cache, recording)

    def draw(
        self, seed: int, group_seed: int, canonical: float, config: Stage1Config
    ) -> Embodiment:
        """A training embodiment: its group from one seed, its action space from another."""
        rng = np.random.default_rng(seed)
        group = self.train_groups[group_seed % len(self.train_groups)]
        families = config.arm_families.get(group.arm.name, config.families)
        if rng.random() < canonical:
            families = config.canonical_families
        return self.embodiment(group, rng, families, swap=bool(rng.random() < 0.5))

    def held_out(self, config: Stage1Config, count: int, seed: int) -> dict[str, list[Embodiment]]:
        """Unseen cameras with unseen spaces, by family; always the same for a seed."""
        groups = [self.held_out_groups[i % len(self.held_out_groups)] for i in range(count)]
        out = {}
        for family in ("tool_canonical", *config.families):
            rng = np.random.default_rng((seed, 77))
            out[family] = [self.embodiment(group, rng, {family: 1.0}) for group in groups]
        return out

    def embodiment(
        self,
        group: Group,
        rng: np.random.Generator,
        families: dict[str, float],
        *,
        swap: bool = False,
    ) -> Embodiment:
        """A group in a drawn action space."""
        space = draw_space(rng, families, group.arm)
        return relabel(self.recording, group, space, self.policy.config.action_dim, swap=swap)

    def transitions(
        self, embodiments: list[Embodiment], rng: np.random.Generator, count: int, part: Part
    ) -> TransitionBatch:
        """`count` random play transitions of each embodiment, in order of embodiments."""
        stride = self.policy.config.stride
        rows = [rng.choice(getattr(e, part), count) for e in embodiments]
        actions = [
            e.actions[(r - e.group.start)[:, None] + np.arange(stride)]
            for e, r in zip(embodiments, rows, strict=True)
        ]
        at = torch.from_numpy(np.concatenate(rows))
        return TransitionBatch(
            self.cache.at(at, self.play_length),
            self.cache.features_at(at + stride),
            self.states[at],
            torch.from_numpy(np.concatenate(actions)),
            self.state_mask[at],
            _repeat([e.aligned_mask for e in embodiments], count),
        )

    def demonstrations(
        self, embodiments: list[Embodiment], rng: np.random.Generator, count: int
    ) -> tuple[Prefix, Tensor, Tensor, Tensor]:
        """Prefix, state, chunk [B, H, A] and action mask [B, A] of random demonstration frames."""
        horizon = self.policy.config.horizon
        rows = [rng.choice(e.group.chunks, count) for e in embodiments]
        chunks = [
            e.actions[(r - e.group.start)[:, None] + np.arange(horizon)]
            for e, r in zip(embodiments, rows, strict=True)
        ]
        at = torch.from_numpy(np.concatenate(rows))
        chunk = torch.from_numpy(np.concatenate(chunks))
        mask = _repeat([e.action_mask for e in embodiments], count)
        return self.cache.at(at), self.states[at], chunk, mask

    def policy_frames(
        self, embodiments: list[Embodiment], rng: np.random.Generator, count: int
    ) -> tuple[Prefix, Tensor, Tensor, Tensor]:
        """As `demonstrations`, a share of them labelled play; what the action loss trains on."""
        played = round(count * self.labelled.share) if self.labelled is not None else 0
        if self.labelled is None or not played:
            return self.demonstrations(embodiments, rng, count)
        shown = self.demonstrations(embodiments, rng, count - played)
        prefix, rows, chunk = self.labelled.sample(embodiments, rng, played)
        # The frames of one embodiment must stand together: first its play, then its demonstrations.
        n = len(embodiments)
        first = torch.arange(n * played).view(n, played)
        second = n * played + torch.arange(n * (count - played)).view(n, count - played)
        order = torch.cat([first, second], dim=1).flatten()
        return (
            Prefix.cat([prefix, shown[0]]).index(order),
            torch.cat([self.states[torch.from_numpy(rows)], shown[1]])[order],
            torch.cat([chunk, shown[2]])[order],
            _repeat([e.action_mask for e in embodiments], count),
        )


def _is_usable(group: Group) -> bool:
    """Whether a group has enough transitions, and enough chunks of successful demonstrations."""
    return len(group.transitions) >= 32 and len(group.chunks) >= 8


def _repeat(masks: list[NDArray[np.bool_]], count: int) -> Tensor:
    """Each mask `count` times: [n * count, A]."""
    return torch.from_numpy(np.stack(masks)).repeat_interleave(count, dim=0)


@final
@dataclass(frozen=True)
class IterationLosses:
    """`total` trains the trunk; `leaf` are the deltas, whose gradient is the alignment loss's.

    The first half of the groups in `alignment` are the slots on their support transitions, the
    second half the same slots on their query transitions.
    """

    total: Tensor
    alignment: LossReport
    action: Tensor
    leaf: FastWeights

    @property
    def metrics(self) -> dict[str, float]:
        """Mean losses: on support as `alignment/<loss>`, on query as `query/<loss>`."""
        out = {"action": float(self.action.detach())}
        for name, loss in self.alignment.by_group.items():
            support, query = loss.chunk(2)
            out |= {
                f"alignment/{name}": float(support.mean()),
                f"query/{name}": float(query.mean()),
            }
        return out

    def slot_gradient(self) -> FastWeights:
        """Gradient of each slot's own alignment loss, after the backward pass of `total`.

        The trunk's loss is a mean over slots; a slot's own gradient must not be divided by them.
        """
        W1, b1 = self.leaf.W1.grad, self.leaf.b1.grad
        assert W1 is not None, "slot_gradient() before backward()"
        assert b1 is not None
        groups = 2 * len(W1)
        return FastWeights(W1 * groups, b1 * groups, self.leaf.layers)


def outer_and_inner(
    policy: Policy,
    losses: AlignmentLosses,
    data: TrainingData[E],
    embodiments: list[E],
    delta: FastWeights,
    config: Stage1Config,
    rng: np.random.Generator,
) -> IterationLosses:
    """The losses of one iteration.

    The action loss takes delta as a constant, and so does the alignment loss on transitions that
    delta was not fitted to: else the trunk would be rewarded for learning them by heart through
    delta, not for what delta says about the robot.
    """
    leaf = delta.map(lambda t: t.detach().clone().requires_grad_())
    w0 = policy.live_w0()
    parts = [data.transitions(embodiments, rng, config.transitions, p) for p in PARTS]
    both = leaf.combine(delta, lambda a, b: torch.cat([a, b]))
    report = losses(policy, TransitionBatch.cat(parts), both.combine(w0, torch.add))
    action = action_loss(policy, data, embodiments, delta.combine(w0, torch.add), config, rng)
    total = config.action_weight * action + report.total / (2 * len(embodiments))
    return IterationLosses(total, report, action, leaf)


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


def action_loss(
    policy: Policy,
    data: TrainingData[E],
    embodiments: list[E],
    w: FastWeights,
    config: Stage1Config,
    rng: np.random.Generator,
) -> Tensor:
    """Flow-matching loss on demonstrations, given W, over the numbers that each robot has."""
    prefix, state, chunk, mask = data.policy_frames(embodiments, rng, config.demo_frames)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(chunk.shape, generator=generator)
    time = sample_time(len(chunk), generator, chunk.device)
    error = policy.action_loss(prefix, state, chunk, w, noise=noise, time_B=time)
    weight = mask[:, None].to(error.dtype).expand_as(error)
    scale = policy.config.action_scale**2
    return (error * weight).sum() / weight.sum() / scale


def canonical_share(config: Stage1Config, progress: float) -> float:
    """The curriculum: the share of canonical embodiments among new ones, falling linearly."""
    fallen = min(1.0, progress / config.canonical_until)
    return config.canonical_start + fallen * (config.canonical_end - config.canonical_start)
