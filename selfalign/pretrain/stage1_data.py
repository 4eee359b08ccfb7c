"""Stage 1's data: what the inner loop asks of them, and the simulator's recording as their source.

Shape key: n embodiments, B = n * count rows, H horizon, A action numbers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfalign.align.batch import TransitionBatch
from selfalign.data.recording import Recording
from selfalign.errors import StoreError
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.pretrain.cache import PrefixCache, play_length
from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.draws import Draws, choose, each
from selfalign.pretrain.embodiments import (
    Embodiment,
    Group,
    draw_space,
    load_groups,
    normalised_states,
    other_limits,
    relabel,
)
from selfalign.pretrain.hindsight import LabelledPlay
from selfalign.sim.arm import Arm

Part = Literal["support", "query"]
PARTS: tuple[Part, Part] = ("support", "query")
E = TypeVar("E")


class TrainingData(Protocol[E]):
    """What stage 1 asks of its data; E is what the data call an embodiment.

    `computes` says that batches need the policy, which only one thread may use.
    """

    @property
    def computes(self) -> bool:
        """Whether batches need the policy."""

    def draw(self, seed: int, group_seed: int, canonical: float, config: Stage1Config) -> E:
        """See `Stage1Data`."""

    def held_out(self, config: Stage1Config, count: int, seed: int) -> dict[str, list[E]]:
        """See `Stage1Data`."""

    def action_numbers(self, embodiment: E) -> int:
        """See `Stage1Data`."""

    def transitions(
        self, embodiments: list[E], draws: Draws, count: int, part: Part
    ) -> TransitionBatch:
        """See `Stage1Data`."""

    def demonstrations(
        self, embodiments: list[E], draws: Draws, count: int
    ) -> tuple[Prefix, Tensor, Tensor, Tensor]:
        """See `Stage1Data`."""

    def policy_frames(
        self, embodiments: list[E], draws: Draws, count: int
    ) -> tuple[Prefix, Tensor, Tensor, Tensor]:
        """See `Stage1Data`."""


@final
class Stage1Data:
    """Recording, cache and groups; draws embodiments and cuts batches.

    The last `held_out` groups are never trained on. Raises StoreError when the recording has no
    usable group to train on, or none to hold out. Batches may be cut by any thread.
    """

    computes = False

    def __init__(
        self,
        policy: Policy,
        recording: Recording,
        cache: PrefixCache,
        held_out: int,
        labelled: LabelledPlay | None = None,
        *,
        most_weight: float = 1.0,
    ) -> None:
        self.policy = policy
        self.labelled = labelled
        self.most_weight = most_weight
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
        self._of_kind: dict[str, list[Group]] = {}
        for group in self.train_groups:
            self._of_kind.setdefault(kind_of(group.arm), []).append(group)

    def draw(
        self, seed: int, group_seed: int, canonical: float, config: Stage1Config
    ) -> Embodiment:
        """A training embodiment: its group from one seed, its action space from another."""
        rng = np.random.default_rng(seed)
        group = self._group(group_seed, config.arm_shares)
        families = config.arm_families.get(kind_of(group.arm), config.families)
        if rng.random() < canonical:
            families = config.canonical_families
        swap = bool(rng.random() < 0.5)
        return self.embodiment(group, rng, families, config, swap=swap)

    def _group(self, seed: int, shares: dict[str, float]) -> Group:
        """The group of a seed; of a kind of arm drawn by its share, where there are shares."""
        if not shares:
            return self.train_groups[seed % len(self.train_groups)]
        missing = sorted(shares.keys() - self._of_kind.keys())
        if missing:
            raise StoreError(
                f"stage1.arm_shares names {', '.join(missing)}; {self.recording.directory} has "
                f"groups to train on of: {', '.join(sorted(self._of_kind))}"
            )
        rng = np.random.default_rng(seed)
        groups = self._of_kind[choose(rng, shares, 1)[0]]
        return groups[rng.integers(len(groups))]

    def held_out(self, config: Stage1Config, count: int, seed: int) -> dict[str, list[Embodiment]]:
        """Unseen cameras with unseen spaces, by family; always the same for a seed."""
        groups = [self.held_out_groups[i % len(self.held_out_groups)] for i in range(count)]
        out = {}
        for family in ("tool_canonical", *config.families):
            rng = np.random.default_rng((seed, 77))
            out[family] = [self.embodiment(group, rng, {family: 1.0}, config) for group in groups]
        return out

    def embodiment(
        self,
        group: Group,
        rng: np.random.Generator,
        families: dict[str, float],
        config: Stage1Config,
        *,
        swap: bool = False,
    ) -> Embodiment:
        """A group in a drawn action space, a share of them with other joint limits."""
        space, numbers = draw_space(rng, families, group.arm), None
        limits = config.arm_limits.get(kind_of(group.arm), config.other_limits)
        if limits and rng.random() < limits:
            states = self.states[group.start : group.stop].numpy()
            numbers = other_limits(rng, states, self.state_mask[group.start].numpy())
        width = self.policy.config.action_dim
        return relabel(
            self.recording,
            group,
            space,
            width,
            swap=swap,
            support_share=config.support,
            state_numbers=numbers,
        )

    def action_numbers(self, embodiment: Embodiment) -> int:
        """How many numbers one of its actions has."""
        return int(embodiment.action_mask.sum())

    def transitions(
        self, embodiments: list[Embodiment], draws: Draws, count: int, part: Part
    ) -> TransitionBatch:
        """`count` random play transitions of each embodiment, in order of embodiments."""
        rngs = each(draws, len(embodiments))
        rows = [
            rng.choice(getattr(e, part), count) for e, rng in zip(embodiments, rngs, strict=True)
        ]
        return self.transitions_at(embodiments, rows)

    def transitions_at(
        self, embodiments: list[Embodiment], rows: list[NDArray[np.int64]]
    ) -> TransitionBatch:
        """The transitions that begin at given rows, equally many of each embodiment."""
        stride = self.policy.config.stride
        actions = [
            e.actions[(r - e.group.start)[:, None] + np.arange(stride)]
            for e, r in zip(embodiments, rows, strict=True)
        ]
        at = torch.from_numpy(np.concatenate(rows))
        return TransitionBatch(
            self.cache.at(at, self.play_length),
            self.cache.features_at(at + stride),
            self._states(embodiments, at),
            torch.from_numpy(np.concatenate(actions)),
            self.state_mask[at],
            _repeat([e.aligned_mask for e in embodiments], len(rows[0])),
        )

    def demonstrations(
        self, embodiments: list[Embodiment], draws: Draws, count: int
    ) -> tuple[Prefix, Tensor, Tensor, Tensor]:
        """Prefix, state, chunk [B, H, A] and action mask [B, A] of random demonstration frames.

        The mask of a number that the robot has is the weight of its error: see `_weighted`.
        """
        horizon = self.policy.config.horizon
        rngs = each(draws, len(embodiments))
        rows = [rng.choice(e.group.chunks, count) for e, rng in zip(embodiments, rngs, strict=True)]
        chunks = [
            e.actions[(r - e.group.start)[:, None] + np.arange(horizon)]
            for e, r in zip(embodiments, rows, strict=True)
        ]
        at = torch.from_numpy(np.concatenate(rows))
        chunk = torch.from_numpy(np.concatenate(chunks))
        mask = _repeat([self._weighted(e) for e in embodiments], count)
        return self.cache.at(at), self._states(embodiments, at), chunk, mask

    def policy_frames(
        self, embodiments: list[Embodiment], draws: Draws, count: int
    ) -> tuple[Prefix, Tensor, Tensor, Tensor]:
        """As `demonstrations`, a share of them labelled play; what the action loss trains on."""
        played = round(count * self.labelled.share) if self.labelled is not None else 0
        if self.labelled is None or not played:
            return self.demonstrations(embodiments, draws, count)
        shown = self.demonstrations(embodiments, draws, count - played)
        prefix, rows, chunk = self.labelled.sample(embodiments, draws, played)
        # The frames of one embodiment must stand together: first its play, then its demonstrations.
        n = len(embodiments)
        first = torch.arange(n * played).view(n, played)
        second = n * played + torch.arange(n * (count - played)).view(n, count - played)
        order = torch.cat([first, second], dim=1).flatten()
        longest = max(prefix.mask.shape[1], shown[0].mask.shape[1])
        return (
            Prefix.cat([_padded(prefix, longest), _padded(shown[0], longest)]).index(order),
            torch.cat([self._states(embodiments, torch.from_numpy(rows)), shown[1]])[order],
            torch.cat([chunk, shown[2]])[order],
            _repeat([self._weighted(e) for e in embodiments], count),
        )

    def _states(self, embodiments: list[Embodiment], at: Tensor) -> Tensor:
        """The state numbers [B, s] of rows [B], equally many of each embodiment."""
        width = self.states.shape[1]
        scale, shift = (
            _repeat([np.broadcast_to(part, width) for part in parts], len(at) // len(embodiments))
            for parts in zip(*((e.state_scale, e.state_shift) for e in embodiments), strict=True)
        )
        return self.states[at] * scale + shift

    def _weighted(self, embodiment: Embodiment) -> NDArray[np.float32]:
        """The action mask [A] by what makes errors of equal motion equal, `most_weight` at most."""
        weight = np.clip(1 / embodiment.motion, 1 / self.most_weight, self.most_weight)
        return embodiment.action_mask * np.float32(weight)


def kind_of(arm: Arm) -> str:
    """What a configuration calls an arm: its name; `procedural` for all random ones."""
    return arm.name.split("-")[0]


def _is_usable(group: Group) -> bool:
    """Whether a group has enough transitions, and enough chunks of successful demonstrations."""
    return len(group.transitions) >= 32 and len(group.chunks) >= 8


def _repeat(masks: Sequence[NDArray[Any]], count: int) -> Tensor:
    """Each mask `count` times: [n * count, A]."""
    return torch.from_numpy(np.stack(masks)).repeat_interleave(count, dim=0)


def _padded(prefix: Prefix, length: int) -> Prefix:
    """A prefix with so many tokens; nobody attends to the new ones."""
    room = length - prefix.mask.shape[1]
    if not room:
        return prefix
    key_values = nn.functional.pad(prefix.key_values, (0, 0, 0, room))
    mask = nn.functional.pad(prefix.mask, (0, room))
    return replace(prefix, key_values=key_values, mask=mask)
