"""Stage 1 on a LeRobotDataset: one robot, which numbers its actions anew in every embodiment.

Order, sign and scale of the actions are what can be changed without knowing the robot's
kinematics. So W has something to learn from play, and the trunk learns to read it.

Shape key: B rows, N rows of the dataset, H horizon, A action numbers of the model, k stride.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfalign.align.batch import TransitionBatch
from selfalign.align.robot_io import RobotIO
from selfalign.align.targets import aligned_numbers
from selfalign.data.lerobot import LeRobotDataset
from selfalign.data.spec import RobotSpec
from selfalign.errors import StoreError
from selfalign.hub import resolve_dataset
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.pretrain.config import PretrainConfig, Stage1Config
from selfalign.pretrain.dataset_frames import DatasetFrames
from selfalign.pretrain.dataset_prefix import DatasetPrefixes
from selfalign.pretrain.draws import Draws, each
from selfalign.pretrain.stage1_data import Part

_HELD_OUT = 0.1
_SCALES = (0.7, 1.3)
_KEPT_BYTES = 16 * 2**30
# The vision feature of a new checkpoint has no scale yet; it is measured on so many changes.
_MEASURED = 512


@final
@dataclass(frozen=True, eq=False)
class Numbering:
    """new[i] = factors[i] * old[order[i]] over the normalised actions [..., A]."""

    order: NDArray[np.int64]
    factors: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, free: NDArray[np.bool_]) -> "Numbering":
        """Shuffle, mirror and scale the numbers that are `free` [A]; the others stay."""
        order, factors = np.arange(len(free)), np.ones(len(free), np.float32)
        at = np.flatnonzero(free)
        order[at] = rng.permutation(at)
        low, high = np.log(_SCALES)
        scales = np.exp(rng.uniform(low, high, len(at)))
        factors[at] = rng.choice((-1.0, 1.0), len(at)) * scales
        return cls(order, factors)

    def apply(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Number actions [..., A] anew."""
        return actions[..., self.order] * self.factors


@final
@dataclass(frozen=True, eq=False)
class DatasetEmbodiment:
    """The robot under one numbering. Its W is aligned on rows `support` and judged on `query`.

    `chunks` are rows that H commands follow.
    """

    numbering: Numbering
    support: NDArray[np.int64]
    query: NDArray[np.int64]
    chunks: NDArray[np.int64]


@final
class DatasetSource:
    """Draws embodiments and cuts batches, as `Stage1Data` does of a recording.

    The last tenth of the episodes is never trained on. Raises StoreError when there are too few.
    """

    def __init__(self, policy: Policy, frames: DatasetFrames, spec: RobotSpec) -> None:
        config = policy.config
        self.policy, self.frames = policy, frames
        self.io = RobotIO(policy, spec)
        self.prefixes = DatasetPrefixes(self.io, frames)
        self._numbers = np.arange(config.action_dim) < len(spec.action)
        self._aligned = aligned_numbers((d.name for d in spec.action), config.action_dim)
        self._state_mask = aligned_numbers((d.name for d in spec.state), config.state_dim)
        count = len(frames.episodes)
        transitions, chunks = (
            [frames.starts(e, stride, spec) for e in range(count)]
            for stride in (config.stride, config.horizon - 1)
        )
        held_out = max(1, round(_HELD_OUT * count))
        self._train = _Rows(transitions[: count - held_out], chunks[: count - held_out])
        self._held_out = _Rows(transitions[count - held_out :], chunks[count - held_out :])
        for what, rows in (("train on", self._train), ("hold out", self._held_out)):
            if not rows.is_usable:
                raise StoreError(
                    f"{count} episodes leave no transitions and chunks of {config.horizon} steps "
                    f"to {what}; record more or longer episodes"
                )

    def draw(
        self, seed: int, group_seed: int, canonical: float, config: Stage1Config
    ) -> DatasetEmbodiment:
        """A training embodiment; a share of `canonical` keeps the robot's own numbering."""
        del group_seed, config
        rng = np.random.default_rng(seed)
        return self._embodiment(self._train, rng, renumbered=bool(rng.random() >= canonical))

    def held_out(
        self, config: Stage1Config, count: int, seed: int
    ) -> dict[str, list[DatasetEmbodiment]]:
        """Embodiments on episodes never trained on, by what is new about them."""
        del config
        rng = np.random.default_rng((seed, 77))
        return {
            name: [self._embodiment(self._held_out, rng, renumbered=new) for _ in range(count)]
            for name, new in (("own_numbers", False), ("renumbered", True))
        }

    @property
    def computes(self) -> bool:
        """Whether batches need the policy, because prefixes are not kept."""
        return not self.prefixes.are_kept

    def action_numbers(self, embodiment: DatasetEmbodiment) -> int:
        """How many numbers one of its actions has."""
        del embodiment
        return int(self._numbers.sum())

    def transitions(
        self, embodiments: list[DatasetEmbodiment], draws: Draws, count: int, part: Part
    ) -> TransitionBatch:
        """`count` random transitions of each embodiment, in order of embodiments."""
        stride = self.policy.config.stride
        rngs = each(draws, len(embodiments))
        rows = [
            rng.choice(getattr(e, part), count) for e, rng in zip(embodiments, rngs, strict=True)
        ]
        actions = [self._actions(e, r, stride) for e, r in zip(embodiments, rows, strict=True)]
        at = np.concatenate(rows)
        return TransitionBatch(
            self.prefixes.at(at, "empty"),
            self.prefixes.features_at(at + stride),
            self._state(at),
            self._tensor(np.concatenate(actions)),
            self._tensor(self._state_mask).expand(len(at), -1),
            # A numbering shuffles these among themselves, so the mask stays.
            self._tensor(self._aligned).expand(len(at), -1),
        )

    def demonstrations(
        self, embodiments: list[DatasetEmbodiment], draws: Draws, count: int
    ) -> tuple[Prefix, Tensor, Tensor, Tensor]:
        """Prefix, state, chunk [B, H, A] and action mask [B, A] of random frames."""
        horizon = self.policy.config.horizon
        rngs = each(draws, len(embodiments))
        rows = [rng.choice(e.chunks, count) for e, rng in zip(embodiments, rngs, strict=True)]
        chunks = [self._actions(e, r, horizon) for e, r in zip(embodiments, rows, strict=True)]
        at = np.concatenate(rows)
        mask = self._tensor(self._numbers).expand(len(at), -1)
        return (
            self.prefixes.at(at, "own"),
            self._state(at),
            self._tensor(np.concatenate(chunks)),
            mask,
        )

    policy_frames = demonstrations

    def measure_spread(self) -> None:
        """Scale the vision feature of a model that has none yet by its changes in the dataset."""
        spread = self.policy.vision.readout.spread
        if not torch.equal(spread, torch.ones_like(spread)):
            return
        rng, stride = np.random.default_rng(0), self.policy.config.stride
        rows = rng.choice(self._train.all_transitions, _MEASURED)
        before, after = (self.prefixes.features_at(r).features for r in (rows, rows + stride))
        middle = (after - before).abs().flatten(0, 1).float().quantile(0.8, dim=0)
        spread.copy_(middle.clamp_min(0.1 * float(middle.median()) + 1e-6))

    def _embodiment(
        self, rows: "_Rows", rng: np.random.Generator, *, renumbered: bool
    ) -> DatasetEmbodiment:
        first, second = rows.halves
        support, query = (second, first) if rng.random() < 0.5 else (first, second)
        free = self._aligned if renumbered else np.zeros_like(self._aligned)
        return DatasetEmbodiment(Numbering.draw(rng, free), support, query, rows.all_chunks)

    def _actions(
        self, embodiment: DatasetEmbodiment, rows: NDArray[np.int64], steps: int
    ) -> NDArray[np.float32]:
        """The normalised actions [B, steps, A] from each row on, in the embodiment's numbering."""
        raw = self.frames.action[rows[:, None] + np.arange(steps)]
        last = self.frames.action[rows - 1] if self.io.rows_before else None
        numbers = self.io.numbers.actions(raw, self.frames.state[rows], last)
        return embodiment.numbering.apply(numbers)

    def _state(self, rows: NDArray[np.int64]) -> Tensor:
        return self._tensor(self.io.numbers.state(self.frames.state[rows]))

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.io.device)


@final
class _Rows:
    """Rows of some episodes that begin a transition, and those that begin a chunk."""

    def __init__(
        self, transitions: list[NDArray[np.int64]], chunks: list[NDArray[np.int64]]
    ) -> None:
        self.all_transitions = _joined(transitions)
        self.all_chunks = _joined(chunks)
        # W is judged on other episodes than it is aligned on, where there are two.
        filled = [rows for rows in transitions if len(rows)]
        middle = len(filled) // 2
        self.halves: tuple[NDArray[np.int64], NDArray[np.int64]] = (
            (_joined(filled[:middle]), _joined(filled[middle:]))
            if middle
            else (self.all_transitions[: len(self.all_transitions) // 2],
                  self.all_transitions[len(self.all_transitions) // 2 :])
        )  # fmt: skip

    @property
    def is_usable(self) -> bool:
        """Whether both halves hold a transition, and there is a chunk."""
        return all(len(half) for half in self.halves) and len(self.all_chunks) > 0


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def open_dataset(config: PretrainConfig, run: Path, policy: Policy) -> DatasetSource:
    """The dataset of a run: decodes it and computes its prefixes when they are missing.

    Raises:
        HubError: the dataset is nowhere.
        StoreError: it cannot be read, or is too small.
        SpecError: the robot has more than the model takes.
    """
    assert config.data is not None, "asked for a dataset that is not configured"
    spec = RobotSpec.from_file(Path(config.spec)) if config.spec else None
    dataset = LeRobotDataset(resolve_dataset(config.data), spec=spec)
    processing = policy.processing
    as_served = processing is None or processing.image_resize == "pil"
    side = policy.config.vision.image_size if as_served else None
    frames = DatasetFrames.open(run / "dataset", dataset, side)
    source = DatasetSource(policy, frames, dataset.spec)
    source.prefixes.keep(run / "prefixes", _KEPT_BYTES)
    source.measure_spread()
    return source
