"""The play store: episodes of recorded play in one directory.

    <root>/
      .lock         held by the one process that writes
      staging/      episodes being written; recovery looks only here
      episodes/     sealed, immutable
      pins/         one empty file for each episode that must not be deleted
      quarantine/   what recovery could not make sense of; never deleted by us
      trash/        on its way out

An episode appears in `episodes/` by one rename, so it is there whole or not at all.
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, final

from pydantic import JsonValue

from selfalign.data.episode_id import EPISODE_ID, new_episode_id
from selfalign.data.episode_layout import (
    SCHEMA,
    Array,
    DamagedEpisode,
    EpisodeRecord,
    create_arrays,
    open_arrays,
    read_record,
    size_on_disk,
    write_record,
)
from selfalign.data.episode_reader import EpisodeInfo, EpisodeRangeError, EpisodeReader
from selfalign.data.episode_writer import (
    EpisodeClosed,
    EpisodeWriter,
    StoreFull,
    StoreWriteError,
    disk_error,
)
from selfalign.data.play_codec import Codec, image_codecs, register_codecs
from selfalign.data.play_reader import (
    PlayReader,
    StoreFolders,
    UnknownEpisode,
    free_bytes,
)
from selfalign.data.play_recovery import RecoveryReport, recover
from selfalign.data.play_shelf import EpisodeInUse, PlayShelf
from selfalign.data.play_step import BadPlayStep, EpisodeSlice, PlayStep
from selfalign.data.spec import RobotSpec
from selfalign.errors import StoreError

__all__ = [
    "BadPlayStep",
    "DamagedEpisode",
    "EpisodeClosed",
    "EpisodeInUse",
    "EpisodeInfo",
    "EpisodeRangeError",
    "EpisodeReader",
    "EpisodeSlice",
    "EpisodeWriter",
    "PlayReader",
    "PlayStep",
    "PlayStore",
    "RecoveryReport",
    "StoreFull",
    "StoreLocked",
    "StoreWriteError",
    "UnknownEpisode",
    "new_episode_id",
]

logger = logging.getLogger(__name__)

_MAX_META_BYTES = 1 << 16

# Room that must be there before an episode is begun [byte].
_METADATA_ROOM = 1 << 16


@final
class StoreLocked(StoreError):
    """Another process, or another PlayStore of this one, writes to the same root."""


@final
class PlayStore:
    """The writing side of the play store. One process at a time, and in it one thread.

    When room is needed, the oldest sealed episodes that are neither pinned nor held are deleted;
    when that does not help, `StoreFull` is raised and nothing is deleted.
    """

    def __init__(
        self,
        root: Path,
        *,
        quota_bytes: int,
        min_free_bytes: int,
        block_steps: int = 16,
        codec: Codec = "raw",
        fsync_blocks: bool = False,
        resume: frozenset[str] = frozenset(),
        disk_free: Callable[[Path], int] = free_bytes,
    ) -> None:
        """Lock the store at `root`, which is created if need be, and recover what is unfinished.

        Args:
            root: directory of the store.
            quota_bytes: most that all episodes together may take on disk.
            min_free_bytes: what is to stay free on the file system.
            block_steps: steps that are written at once; what a crash can lose.
            codec: how images are kept: `raw`, `zstd` or `jpeg` (lossy).
            fsync_blocks: flush every block to the device, so that not even a power cut loses a
                step below the watermark. Costs 10 to 30 ms of waiting a block.
            resume: unfinished episodes that recovery leaves open for `resume_episode`.
            disk_free: how the free space is found out.

        Raises:
            StoreLocked: somebody else writes there.
            StoreError: a parameter is out of range or the directory cannot be used.
        """
        _check_parameters(quota_bytes, min_free_bytes, block_steps)
        image_codecs(codec)
        self._block_steps, self._codec, self._fsync_blocks = block_steps, codec, fsync_blocks
        register_codecs()
        self._reader = PlayReader(root)
        self._folders = self._reader.folders
        self._lock = _lock(self._folders)
        try:
            self.recovery = recover(self._folders, resume)
            self._shelf = PlayShelf(
                self._reader,
                quota_bytes=quota_bytes,
                min_free_bytes=min_free_bytes,
                disk_free=disk_free,
            )
        except OSError as error:
            os.close(self._lock)
            raise StoreError(f"{self.root} cannot be recovered: {error}") from error

    @property
    def root(self) -> Path:
        """Directory of the store."""
        return self._folders.root

    @staticmethod
    def reader(root: Path) -> PlayReader:
        """Open a store for reading, in any process, without the lock."""
        return PlayReader(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def start_episode(
        self,
        spec: RobotSpec,
        *,
        meta: Mapping[str, JsonValue] | None = None,
        episode_id: str | None = None,
    ) -> EpisodeWriter:
        """Begin an episode of the robot that `spec` describes. Several can be open at once.

        Args:
            spec: kept with the episode.
            meta: anything worth knowing later, as JSON of at most 64 KiB.
            episode_id: a name never used before; None to choose one. Episodes are deleted in the
                order of their names, so it should begin with the time, as `new_episode_id` does.

        Raises:
            StoreFull: no room for even one block.
            StoreError: the name or `meta` cannot be used, or the disk refused.
        """
        self._require_open()
        self._shelf.make_room(_METADATA_ROOM)
        now = datetime.now(UTC)
        record = EpisodeRecord(
            schema_version=SCHEMA,
            id=self._fresh_id(now) if episode_id is None else self._checked_id(episode_id),
            spec=spec,
            created_at=now.isoformat(timespec="milliseconds"),
            meta=_checked_meta(meta or {}),
            codec=self._codec,
            block_steps=self._block_steps,
            length=0,
            bytes=0,
            instructions=(),
        )
        path = self._folders.staged_path(record.id)
        try:
            arrays = create_arrays(path, spec, codec=self._codec, block=self._block_steps)
            record = record.model_copy(update={"bytes": size_on_disk(path)})
            write_record(path, record, fsync=False)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise disk_error(record.id, error) from error
        return self._enrol(path, record, arrays)

    def resume_episode(self, episode_id: str) -> EpisodeWriter:
        """Go on with an episode that recovery has left open, at its watermark.

        Raises:
            UnknownEpisode: recovery did not leave it open, or it was resumed already.
            DamagedEpisode: its last block cannot be read back.
        """
        self._require_open()
        if episode_id not in self.recovery.resumable or episode_id not in self._shelf.waiting:
            msg = f"no episode {episode_id[:80]!r} in {self.root} is waiting to be resumed"
            raise UnknownEpisode(msg)
        path = self._folders.staged_path(episode_id)
        record = read_record(path)
        return self._enrol(path, record, open_arrays(path, record.spec, mode="r+"))

    def episodes(self) -> list[EpisodeInfo]:
        """Return all episodes, sealed or being written, oldest first."""
        return self._reader.episodes()

    def open(self, episode_id: str) -> EpisodeReader:
        """Open an episode for reading. Raises UnknownEpisode, DamagedEpisode."""
        return self._reader.open(episode_id)

    def pin(self, episode_id: str) -> None:
        """Keep an episode from being deleted until `unpin`. Raises UnknownEpisode."""
        self._reader.pin(episode_id)

    def unpin(self, episode_id: str) -> None:
        """Allow an episode to be deleted again."""
        self._reader.unpin(episode_id)

    def hold(self, episode_ids: Iterable[str]) -> None:
        """Keep exactly these from being deleted, until the next call or `close`."""
        self._shelf.held = frozenset(episode_ids)

    def delete(
        self, *episode_ids: str, pinned: bool = False, sweep: bool = True
    ) -> tuple[EpisodeInfo, ...]:
        """Delete sealed episodes: all of them, or none where one must not be deleted.

        Their room counts as free at once. A crash leaves each of them whole or gone.

        Args:
            episode_ids: their names; one named twice counts once.
            pinned: delete pinned ones, too.
            sweep: remove their files at once; else leave that to `sweep`, or to the next start.

        Returns:
            What they were, in the order given.

        Raises:
            EpisodeInUse: one is being written, held or pinned.
            UnknownEpisode: there is none of one of the names.
            StoreWriteError: the disk refused; some may be deleted.
        """
        self._require_open()
        records = self._shelf.delete(episode_ids, pinned=pinned)
        if sweep:
            self._shelf.sweep_all()
        return tuple(EpisodeInfo.of(record, pinned=False) for record in records)

    def sweep(self) -> bool:
        """Remove the files of one deleted episode. Returns whether there are more to remove."""
        return self._shelf.sweep()

    def used_bytes(self) -> int:
        """What counts against the quota: episodes, open ones too, and quarantine [byte]."""
        return self._shelf.used_bytes()

    def close(self) -> None:
        """Seal what is open and release the lock. What cannot be sealed waits for recovery."""
        for writer in list(self._shelf.live.values()):
            try:
                writer.seal(discard_pending=True)
            except (StoreFull, StoreWriteError) as error:
                logger.warning("left for recovery: %s", error)
        self._shelf.live.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _enrol(self, path: Path, record: EpisodeRecord, arrays: dict[str, Array]) -> EpisodeWriter:
        writer = EpisodeWriter(
            path, record, arrays, home=self._shelf, fsync_blocks=self._fsync_blocks
        )
        self._shelf.enrol(writer)
        return writer

    def _fresh_id(self, now: datetime) -> str:
        known = [*self._reader.sealed_records(), *self._shelf.live, *self._shelf.waiting]
        return new_episode_id(now, after=max(known, default=""))

    def _checked_id(self, episode_id: str) -> str:
        if not EPISODE_ID.fullmatch(episode_id):
            msg = f"expected an episode name of letters, digits, _ . -, got {episode_id[:80]!r}"
            raise StoreError(msg)
        taken = (self._folders.sealed_path(episode_id), self._folders.staged_path(episode_id))
        if any(path.exists() for path in taken):
            raise StoreError(f"episode {episode_id} exists already; choose another name")
        return episode_id

    def _require_open(self) -> None:
        if self._lock < 0:
            raise StoreError(f"the play store at {self._folders.root} is closed")


def _check_parameters(quota_bytes: int, min_free_bytes: int, block_steps: int) -> None:
    if quota_bytes <= 0 or min_free_bytes < 0:
        msg = (
            f"expected quota_bytes > 0 and min_free_bytes >= 0, got {quota_bytes}, {min_free_bytes}"
        )
        raise StoreError(msg)
    if not 1 <= block_steps <= 4096:
        raise StoreError(f"expected 1 <= block_steps <= 4096, got {block_steps}")


def _lock(folders: StoreFolders) -> int:
    """Create the folders and lock the root; return the descriptor that holds the lock."""
    try:
        for folder in ("staging", "episodes", "pins", "quarantine", "trash"):
            (folders.root / folder).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folders.root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"{folders.root} cannot hold a play store: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        msg = (
            f"{folders.root} is being written by another process (pid {holder}); stop it, or open "
            "the store with PlayStore.reader"
        )
        raise StoreLocked(msg) from error
    # Who holds the lock is for people to read; a full disk is no reason to fail.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _checked_meta(meta: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        text = json.dumps(meta, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"meta of an episode must be JSON: {error}") from error
    if len(text) > _MAX_META_BYTES:
        raise StoreError(f"meta of an episode takes {len(text)} bytes, at most {_MAX_META_BYTES}")
    copied: dict[str, JsonValue] = json.loads(text)
    return copied
