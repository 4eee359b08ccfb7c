"""Writing one episode: steps are buffered, whole blocks are written, the watermark follows.

Order within a block: chunks of every array, then the record with the new `length`. A process that
dies at any instant leaves an episode whose steps below the watermark are all there.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Protocol, final

import numpy as np

from selfalign.data.episode_layout import (
    CAPACITY,
    Array,
    EpisodeRecord,
    chunk_file,
    fsync_path,
    fsync_tree,
    read_rows,
    reshape_arrays,
    size_on_disk,
    write_record,
)
from selfalign.data.episode_reader import EpisodeInfo
from selfalign.data.play_step import BadPlayStep, PlayStep, check_play_step
from selfalign.data.spec import RobotSpec
from selfalign.errors import StoreError

# Changes of the instruction that one episode can hold; each is kept in the record.
MAX_INSTRUCTION_RUNS = 1000

# Room kept for metadata when a block is written [byte].
_METADATA_BYTES = 1 << 16

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@final
class StoreFull(StoreError):
    """There is no room for more play: quota, free space to keep, or the disk itself."""


@final
class StoreWriteError(StoreError):
    """The disk refused a write for another reason than room."""


@final
class EpisodeClosed(StoreError):
    """The episode was sealed or aborted, or is at its capacity; nothing can be added."""


class EpisodeHome(Protocol):
    """What a writer needs of the store it belongs to."""

    def make_room(self, nbytes: int) -> None:
        """Free `nbytes` by deleting old episodes, or raise StoreFull."""

    def publish(self, path: Path, record: EpisodeRecord) -> EpisodeInfo:
        """Take a finished episode over: it becomes one of the sealed."""

    def discard(self, path: Path) -> None:
        """Delete an episode that nobody wants."""


@final
class EpisodeWriter:
    """Appends steps to one episode. Made by `PlayStore.start_episode`; for one thread.

    On StoreFull nothing is lost and nothing is half taken: steps that were taken stay in the
    buffer (at most one block) and are written by the next call that finds room.
    """

    def __init__(
        self,
        path: Path,
        record: EpisodeRecord,
        arrays: dict[str, Array],
        *,
        home: EpisodeHome,
        fsync_blocks: bool,
    ) -> None:
        self._path = path
        self._record = record
        self._arrays = arrays
        self._home = home
        self._fsync_blocks = fsync_blocks
        self._buffer = {
            name: np.zeros((record.block_steps, *array.shape[1:]), dtype=array.dtype)
            for name, array in arrays.items()
        }
        self._block_bytes = sum(rows.nbytes for rows in self._buffer.values())
        self._runs = list(record.instructions)
        self._taken = record.length
        # The block in the buffer: its first row, and what its files take so far [byte].
        self._block_start = record.length - record.length % record.block_steps
        self._block_on_disk = 0
        self._last_t_ns: int | None = None
        self._state: Literal["open", "sealing", "closed"] = "open"
        self._restore()

    @property
    def id(self) -> str:
        """Identifier of the episode."""
        return self._record.id

    @property
    def spec(self) -> RobotSpec:
        """Spec of the robot that plays."""
        return self._record.spec

    @property
    def received(self) -> int:
        """Number of steps taken, on disk or still in the buffer."""
        return self._taken

    @property
    def durable(self) -> int:
        """Number of steps on disk: the watermark."""
        return self._record.length

    @property
    def nbytes(self) -> int:
        """Size of the episode on disk [byte]."""
        return self._record.bytes

    def append(self, step: PlayStep) -> int:
        """Take one step; write the block that it fills. Returns the watermark.

        Raises:
            ObservationMismatch, BadPlayStep: the step is wrong; it was not taken.
            StoreFull: no room; the step was not taken.
            StoreWriteError: the disk refused; the step was not taken.
            EpisodeClosed: after `seal` or `abort`, or the episode is at its capacity.
        """
        self._require_open()
        check_play_step(step, self.spec, after_t_ns=self._last_t_ns)
        self._check_capacity(step.observation.instruction)
        if self._filled == self._record.block_steps:
            self._write_block()
        self._take(step)
        if self._filled == self._record.block_steps:
            # The step is in the buffer now, so want of room is told to the next call.
            with suppress(StoreFull, StoreWriteError):
                self._write_block()
        return self.durable

    def flush(self) -> int:
        """Write the steps in the buffer although they fill no block. Returns the watermark.

        Raises:
            StoreFull, StoreWriteError: they stay in the buffer.
            EpisodeClosed: after `seal` or `abort`.
        """
        self._require_open()
        if self._taken > self.durable:
            self._write_block()
        return self.durable

    def seal(self, *, discard_pending: bool = False) -> EpisodeInfo:
        """Complete the episode and move it to the sealed ones.

        An episode without steps is discarded; the result then has length 0 and is not sealed.

        Args:
            discard_pending: give up the steps in the buffer (at most a block) where they find no
                room, instead of raising.

        Raises:
            StoreFull, StoreWriteError: what was recorded is safe; call `seal` again.
            EpisodeClosed: after `seal` or `abort`.
        """
        if self._state != "sealing":
            try:
                self.flush()
            except (StoreFull, StoreWriteError):
                if not discard_pending:
                    raise
        if self.durable == 0:
            self.abort()
            return EpisodeInfo.of(self._record, pinned=False)
        self._state = "sealing"
        with _disk_errors(self.id):
            sealed = seal_in_place(self._path, self._record)
            info = self._home.publish(self._path, sealed)
        self._record, self._state = sealed, "closed"
        return info

    def abort(self) -> None:
        """Delete the episode, also what is already on disk. Does nothing after `seal`."""
        if self._state != "closed":
            self._state = "closed"
            with _disk_errors(self.id):
                self._home.discard(self._path)

    def _restore(self) -> None:
        """Take up an episode that has steps already: its last time and its unfinished block.

        Raises:
            DamagedEpisode: they cannot be read back.
        """
        if self._taken == 0:
            return
        last = read_rows(self._arrays["t_ns"], self._taken - 1, self._taken)
        self._last_t_ns = int(last[0])
        if self._filled:
            for name, array in self._arrays.items():
                self._buffer[name][: self._filled] = read_rows(
                    array, self._block_start, self._taken
                )
            self._block_on_disk = sum(file.stat().st_size for file in self._block_files())

    @property
    def _filled(self) -> int:
        return self._taken - self._block_start

    def _require_open(self) -> None:
        if self._state == "sealing":
            raise EpisodeClosed(f"episode {self.id} is being sealed; call seal again")
        if self._state == "closed":
            raise EpisodeClosed(f"episode {self.id} is sealed or aborted; start a new one")

    def _check_capacity(self, instruction: str) -> None:
        if self._taken == CAPACITY:
            msg = f"episode {self.id} holds {CAPACITY} steps, its capacity; seal it and go on anew"
            raise EpisodeClosed(msg)
        if len(self._runs) == MAX_INSTRUCTION_RUNS and self._runs[-1][1] != instruction:
            msg = (
                f"play step instruction: it changed {MAX_INSTRUCTION_RUNS} times in episode "
                f"{self.id}, the most that one episode can hold; start a new episode"
            )
            raise BadPlayStep(msg)

    def _take(self, step: PlayStep) -> None:
        observation, row = step.observation, self._filled
        for name, image in observation.images.items():
            self._buffer[f"images/{name}"][row] = image
        self._buffer["state"][row] = observation.state
        self._buffer["action"][row] = step.action
        self._buffer["t_ns"][row] = step.t_ns
        if not self._runs or self._runs[-1][1] != observation.instruction:
            self._runs.append((self._taken, observation.instruction))
        self._last_t_ns = step.t_ns
        self._taken += 1

    def _write_block(self) -> None:
        """Write the buffer as one whole chunk of each array, then move the watermark."""
        self._home.make_room(self._block_bytes + _METADATA_BYTES)
        start, stop = self._block_start, self._block_start + self._record.block_steps
        with _disk_errors(self.id):
            for name, rows in self._buffer.items():
                rows[self._filled :] = 0
                self._arrays[name][start:stop] = rows
            on_disk = self._sync_block()
            record = self._record.model_copy(
                update={
                    "length": self._taken,
                    "bytes": self._record.bytes + on_disk - self._block_on_disk,
                    "instructions": tuple(self._runs),
                }
            )
            write_record(self._path, record, fsync=self._fsync_blocks)
        self._record, self._block_on_disk = record, on_disk
        if self._filled == self._record.block_steps:
            self._block_start, self._block_on_disk = self._taken, 0

    def _block_files(self) -> list[Path]:
        block = self._block_start // self._record.block_steps
        return [chunk_file(self._path, name, block) for name in self._arrays]

    def _sync_block(self) -> int:
        """Flush the files of the block to the device if asked to; return their size [byte]."""
        files = self._block_files()
        if self._fsync_blocks:
            for path in [*files, *(file.parent for file in files)]:
                fsync_path(path)
        return sum(file.stat().st_size for file in files)


def seal_in_place(path: Path, record: EpisodeRecord, *, recovered: bool = False) -> EpisodeRecord:
    """Make an episode final and flush all of it to the device. May be repeated after a crash."""
    reshape_arrays(path, record.spec, record.length)
    update = {"sealed": True, "recovered": recovered, "bytes": size_on_disk(path)}
    sealed = record.model_copy(update=update)
    write_record(path, sealed, fsync=False)
    fsync_tree(path)
    return sealed


def disk_error(episode_id: str, error: OSError) -> StoreFull | StoreWriteError:
    """Return our error for one of the operating system's while an episode was written."""
    if error.errno in _FULL:
        reason = error.strerror
        return StoreFull(f"episode {episode_id}: the disk is full ({reason}); free some space")
    return StoreWriteError(f"episode {episode_id}: the disk refused a write: {error}")


@contextmanager
def _disk_errors(episode_id: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(episode_id, error) from error
