"""Transitions of a session whose prefixes do not fit into memory: fetched when they are needed.

Has what the aligner uses of a `TransitionBatch`: a length and `index`. What `index` gives is a
choice of rows, still without prefixes; `load` fetches them, from the cache or by encoding all
missing frames of both ends of the transitions in one batch.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfalign.align.batch import TransitionBatch
from selfalign.align.prefix_cache import PrefixCache
from selfalign.align.robot_io import Frames, RobotIO
from selfalign.data.play_step import EpisodeSlice
from selfalign.model.prefix import Prefix


class ReadableEpisode(Protocol):
    """An episode of play on disk."""

    id: str

    def read(self, start: int, stop: int) -> EpisodeSlice:
        """Steps start to stop."""


@final
@dataclass(frozen=True)
class CachedTransitions:
    """n transitions: `places` int64 [n, 2] says which episode and at which row each begins."""

    io: RobotIO
    cache: PrefixCache
    episodes: tuple[ReadableEpisode, ...]
    places: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        io: RobotIO,
        cache: PrefixCache,
        episodes: list[ReadableEpisode],
        starts: list[NDArray[np.int64]],
    ) -> Self:
        """The transitions that begin at rows `starts` of each of the episodes."""
        places = [
            np.stack([np.full(len(rows), number), rows], axis=1)
            for number, rows in enumerate(starts)
        ]
        return cls(io, cache, tuple(episodes), np.concatenate(places).astype(np.int64))

    def __len__(self) -> int:
        return len(self.places)

    def index(self, rows: Tensor) -> Self:
        """Choose transitions; nothing is read yet."""
        return replace(self, places=self.places[rows.numpy()])

    def load(self) -> TransitionBatch:
        """Read, encode what the cache does not have, and join."""
        before, rows = self.io.rows_before, self._rows_read
        pieces = [
            self.episodes[episode].read(int(row) - before, int(row) - before + rows)
            for episode, row in self.places
        ]
        starts = np.arange(len(pieces), dtype=np.int64) * rows + before
        return self.io.transitions(_joined(pieces), starts, prefixes=self._prefixes)

    @property
    def _rows_read(self) -> int:
        """Of each transition: what comes before its start, the start, and stride steps."""
        return self.io.rows_before + 1 + self.io.policy.config.stride

    def _prefixes(self, rows: NDArray[np.int64], frames: Frames) -> Prefix:
        """Of rows of the joined pieces: the same frame may stand there more than once."""
        names = [self._name(int(row)) for row in rows]
        known: dict[str, Prefix] = {}
        missing: list[str] = []
        for name in dict.fromkeys(names):
            prefix = self.cache.get(name)
            if prefix is None:
                missing.append(name)
            else:
                known[name] = prefix.to(self.io.device)
        if missing:
            at = [names.index(name) for name in missing]
            encoded = self.io.frame_prefixes({camera: x[at] for camera, x in frames.items()})
            for place, name in enumerate(missing):
                known[name] = encoded.index(torch.tensor([place], device=self.io.device))
                self.cache.put(name, known[name])
        return Prefix.cat([known[name] for name in names])

    def _name(self, row: int) -> str:
        """Of a frame: the frozen model, the robot's spec, the episode and the step decide it."""
        piece, offset = divmod(row, self._rows_read)
        episode, start = self.places[piece]
        offset -= self.io.rows_before
        model, processing = self.io.policy.base_sha256, self.io.numbers.processing
        resize = "" if processing is None else processing.image_resize
        scope = f"{model}/{resize}/{self.io.spec.digest}"
        return f"{scope}/{self.episodes[episode].id}/{start + offset}"


def _joined(pieces: list[EpisodeSlice]) -> EpisodeSlice:
    return EpisodeSlice(
        images={
            camera: np.concatenate([piece.images[camera] for piece in pieces])
            for camera in pieces[0].images
        },
        state=np.concatenate([piece.state for piece in pieces]),
        action=np.concatenate([piece.action for piece in pieces]),
        t_ns=np.concatenate([piece.t_ns for piece in pieces]),
        instructions=tuple(text for piece in pieces for text in piece.instructions),
    )
