"""Reading an episode, sealed or still being written, from any process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.episode_layout import (
    Array,
    DamagedEpisode,
    EpisodeRecord,
    array_names,
    missing_chunk,
    open_arrays,
    read_record,
    read_rows,
)
from selfalign.data.play_step import EpisodeSlice
from selfalign.data.spec import RobotSpec
from selfalign.errors import StoreError

# An episode moves at most twice while it is read: sealed, then deleted.
_MOVES = 3

Rows = Mapping[str, NDArray[Any]]


@final
class EpisodeRangeError(StoreError):
    """Rows were asked for that the episode does not have (yet)."""


@final
@dataclass(frozen=True)
class EpisodeInfo:
    """What a list of episodes shows. `created_at` is ISO 8601 in UTC, `bytes` the size on disk.

    `sealed` is False while the episode is being written; its length then grows. `seconds` is what
    its steps take at the rate of the spec.
    """

    id: str
    robot: str
    length: int
    seconds: float
    sealed: bool
    bytes: int
    created_at: str
    pinned: bool
    recovered: bool

    @classmethod
    def of(cls, record: EpisodeRecord, *, pinned: bool) -> Self:
        """Summarise the record of an episode."""
        return cls(
            id=record.id,
            robot=record.spec.name,
            length=record.length,
            seconds=record.length / record.spec.rate_hz,
            sealed=record.sealed,
            bytes=record.bytes,
            created_at=record.created_at,
            pinned=pinned,
            recovered=record.recovered,
        )


@final
class EpisodeReader:
    """Reads one episode. Follows it when it is sealed and thus moved in between two reads.

    Only steps below the watermark are ever returned, and never zeros in place of steps that the
    disk has lost. Use it from one thread.
    """

    def __init__(self, episode_id: str, locate: Callable[[str], Path]) -> None:
        """Read episode `episode_id`, which `locate` finds (it raises UnknownEpisode)."""
        self.id = episode_id
        self._locate = locate
        self._opened: tuple[Path, Mapping[str, Array]] | None = None
        self.spec: RobotSpec = self._record().spec

    @property
    def path(self) -> Path:
        """Where the episode lies at this moment; sealing moves it. Raises UnknownEpisode."""
        return self._locate(self.id)

    @property
    def length(self) -> int:
        """Number of steps that may be read now: the watermark, read anew from the disk."""
        return self._record().length

    @property
    def sealed(self) -> bool:
        """Whether the episode is complete: its length will not change any more."""
        return self._record().sealed

    @property
    def meta(self) -> Mapping[str, object]:
        """What the recorder's user said about the episode."""
        return self._record().meta

    def read(self, start: int, stop: int) -> EpisodeSlice:
        """Read steps [start, stop).

        Raises:
            EpisodeRangeError: beyond the watermark or not a range.
            UnknownEpisode: the episode was deleted meanwhile.
            DamagedEpisode: files are missing or cannot be decoded.
        """
        rows, record = self._read(array_names(self.spec), start, stop)
        return _slice(rows, record, start, stop)

    def read_times(self, start: int, stop: int) -> NDArray[np.int64]:
        """Read the time stamps of steps [start, stop) alone: `[n]` int64 [ns]. Raises as `read`."""
        rows, _ = self._read(["t_ns"], start, stop)
        return rows["t_ns"]

    def _read(self, names: list[str], start: int, stop: int) -> tuple[Rows, EpisodeRecord]:
        for _ in range(_MOVES):
            path = self._locate(self.id)
            try:
                return self._read_at(path, names, start, stop)
            except (DamagedEpisode, FileNotFoundError):
                if path.exists():
                    raise
        raise DamagedEpisode(f"episode {self.id} moved {_MOVES} times while it was read")

    def _read_at(
        self, path: Path, names: list[str], start: int, stop: int
    ) -> tuple[Rows, EpisodeRecord]:
        record = read_record(path)
        if not 0 <= start <= stop <= record.length:
            msg = f"steps [{start}, {stop}) of episode {self.id}, which has {record.length} steps"
            raise EpisodeRangeError(msg)
        arrays = self._arrays(path)
        rows = {name: read_rows(arrays[name], start, stop) for name in names}
        # Checked after reading: if the chunks are here now they were here then, too.
        lost = missing_chunk(path, names, record.block_steps, start, stop)
        if lost is not None:
            raise DamagedEpisode(f"episode {self.id}: {lost.relative_to(path)} is missing")
        return rows, record

    def _arrays(self, path: Path) -> Mapping[str, Array]:
        if self._opened is None or self._opened[0] != path:
            self._opened = path, open_arrays(path, self.spec)
        return self._opened[1]

    def _record(self) -> EpisodeRecord:
        for _ in range(_MOVES):
            path = self._locate(self.id)
            try:
                return read_record(path)
            except FileNotFoundError as error:
                if path.exists():
                    msg = f"episode {self.id}: zarr.json is missing"
                    raise DamagedEpisode(msg) from error
        raise DamagedEpisode(f"episode {self.id} moved {_MOVES} times while it was read")


def _slice(rows: Rows, record: EpisodeRecord, start: int, stop: int) -> EpisodeSlice:
    images = {camera.name: rows[f"images/{camera.name}"] for camera in record.spec.cameras}
    return EpisodeSlice(
        images=images,
        state=rows["state"],
        action=rows["action"],
        t_ns=rows["t_ns"],
        instructions=instructions_of(record.instructions, start, stop),
    )


def instructions_of(runs: tuple[tuple[int, str], ...], start: int, stop: int) -> tuple[str, ...]:
    """Expand runs (first step, text) into the instruction of each step in [start, stop)."""
    firsts = np.array([first for first, _ in runs], dtype=np.int64)
    which = np.searchsorted(firsts, np.arange(start, stop), side="right") - 1
    return tuple(runs[i][1] for i in which)
