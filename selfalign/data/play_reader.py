"""The play store as a reader sees it: a list of episodes, and each of them to open."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from selfalign.data.episode_id import EPISODE_ID
from selfalign.data.episode_layout import (
    DamagedEpisode,
    EpisodeRecord,
    read_record,
    size_on_disk,
)
from selfalign.data.episode_reader import EpisodeInfo, EpisodeReader
from selfalign.errors import StoreError

logger = logging.getLogger(__name__)

_SUFFIX = ".zarr"


@final
class UnknownEpisode(StoreError):
    """There is no episode of that name, or it has been deleted."""


@final
@dataclass(frozen=True)
class StoreFolders:
    """The folders of a play store below its root."""

    root: Path

    @property
    def staging(self) -> Path:
        """Episodes being written."""
        return self.root / "staging"

    @property
    def episodes(self) -> Path:
        """Sealed episodes."""
        return self.root / "episodes"

    @property
    def pins(self) -> Path:
        """One empty file for each episode that must not be deleted."""
        return self.root / "pins"

    @property
    def quarantine(self) -> Path:
        """What recovery could not make sense of."""
        return self.root / "quarantine"

    @property
    def trash(self) -> Path:
        """Episodes on their way out."""
        return self.root / "trash"

    def sealed_path(self, episode_id: str) -> Path:
        """Where a sealed episode lies."""
        return self.episodes / (episode_id + _SUFFIX)

    def staged_path(self, episode_id: str) -> Path:
        """Where an episode that is being written lies."""
        return self.staging / (episode_id + _SUFFIX)


@final
class PlayReader:
    """Lists and opens the episodes of a store, in any process, also while another one writes.

    Takes no lock. The root need not exist yet: then there are no episodes. For one thread.
    """

    def __init__(self, root: Path) -> None:
        self.folders = StoreFolders(Path(root))
        # Sealed episodes never change, so their records are read once.
        self._sealed: dict[str, EpisodeRecord] = {}

    def episodes(self) -> list[EpisodeInfo]:
        """Return all episodes, sealed or being written, oldest first.

        One whose metadata cannot be read is left out and logged.
        """
        # Staging first: an episode that is sealed in between is then seen twice, not missed.
        records = self._staged() | self.sealed_records()
        return [
            EpisodeInfo.of(record, pinned=self.is_pinned(record.id))
            for _, record in sorted(records.items())
        ]

    def open(self, episode_id: str) -> EpisodeReader:
        """Open an episode. Raises UnknownEpisode, DamagedEpisode."""
        return EpisodeReader(episode_id, self.locate)

    def locate(self, episode_id: str) -> Path:
        """Return where an episode lies at this moment.

        Raises:
            UnknownEpisode: it is not in the store.
        """
        if EPISODE_ID.fullmatch(episode_id):
            sealed = self.folders.sealed_path(episode_id)
            # Sealed is asked twice, as it may be moved there between the questions.
            for path in (sealed, self.folders.staged_path(episode_id), sealed):
                if path.is_dir():
                    return path
        raise UnknownEpisode(f"no episode {episode_id[:80]!r} in {self.folders.root}")

    def pin(self, episode_id: str) -> None:
        """Keep an episode from being deleted when room is needed. Holds until `unpin`.

        Raises:
            UnknownEpisode: it is not in the store.
        """
        self.locate(episode_id)
        self.folders.pins.mkdir(exist_ok=True)
        self._pin_file(episode_id).touch()

    def unpin(self, episode_id: str) -> None:
        """Allow an episode to be deleted again. Does nothing if it is not pinned."""
        if EPISODE_ID.fullmatch(episode_id):
            self._pin_file(episode_id).unlink(missing_ok=True)

    def is_pinned(self, episode_id: str) -> bool:
        """Whether an episode is kept from deletion."""
        return self._pin_file(episode_id).exists()

    def used_bytes(self) -> int:
        """Size of all episodes on disk [byte]."""
        return sum(info.bytes for info in self.episodes())

    def quarantined_bytes(self) -> int:
        """Size of what recovery has set aside; it counts against the quota [byte]."""
        return size_on_disk(self.folders.quarantine)

    def free_bytes(self) -> int:
        """Free space of the file system that holds the store [byte]."""
        root = self.folders.root
        return free_bytes(next(path for path in (root, *root.parents) if path.exists()))

    def sealed_records(self) -> dict[str, EpisodeRecord]:
        """Return the records of the sealed episodes by identifier."""
        names = _ids_in(self.folders.episodes)
        known = {name: self._sealed[name] for name in names if name in self._sealed}
        fresh = _read_records(self.folders.episodes, [n for n in names if n not in known])
        self._sealed = known | fresh
        return self._sealed

    def _staged(self) -> dict[str, EpisodeRecord]:
        return _read_records(self.folders.staging, _ids_in(self.folders.staging))

    def _pin_file(self, episode_id: str) -> Path:
        return self.folders.pins / episode_id


def free_bytes(path: Path) -> int:
    """Free space of the file system at `path`, for users who are not root [byte]."""
    return shutil.disk_usage(path).free


def _ids_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(item.name.removesuffix(_SUFFIX) for item in folder.glob("*" + _SUFFIX))


def _read_records(folder: Path, ids: list[str]) -> dict[str, EpisodeRecord]:
    records = {}
    for name in ids:
        path = folder / (name + _SUFFIX)
        try:
            records[name] = _record_of(path, name)
        except FileNotFoundError:
            # Sealed, deleted or not yet begun since the folder was listed.
            continue
        except DamagedEpisode as error:
            if path.exists():
                logger.warning("episode left out of the list: %s", error)
    return records


def _record_of(path: Path, name: str) -> EpisodeRecord:
    record = read_record(path)
    if record.id != name:
        raise DamagedEpisode(f"{path.name}: its record is that of episode {record.id[:80]!r}")
    return record
