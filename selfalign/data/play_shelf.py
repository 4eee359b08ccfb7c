"""Room for episodes: what is stored, what must go when more comes, and how it goes."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import final

from selfalign.data.episode_layout import EpisodeRecord, fsync_path, size_on_disk
from selfalign.data.episode_reader import EpisodeInfo
from selfalign.data.episode_writer import EpisodeWriter, StoreFull
from selfalign.data.play_reader import PlayReader

logger = logging.getLogger(__name__)


@final
class PlayShelf:
    """Keeps the episodes of a store within its quota. For the process that holds the lock.

    Attributes:
        live: writers of the episodes that are open.
        waiting: size of each episode in staging that no writer has: resumable, or put off [byte].
    """

    def __init__(
        self,
        reader: PlayReader,
        *,
        quota_bytes: int,
        min_free_bytes: int,
        disk_free: Callable[[Path], int],
    ) -> None:
        self._reader = reader
        self._folders = reader.folders
        self._quota_bytes = quota_bytes
        self._min_free_bytes = min_free_bytes
        self._disk_free = disk_free
        self.live: dict[str, EpisodeWriter] = {}
        self.waiting = {path.stem: size_on_disk(path) for path in self._folders.staging.iterdir()}
        self._quarantined = size_on_disk(self._folders.quarantine)

    def enrol(self, writer: EpisodeWriter) -> None:
        """Count an episode that a writer has taken up."""
        self.live[writer.id] = writer
        self.waiting.pop(writer.id, None)

    def used_bytes(self) -> int:
        """What counts against the quota: episodes, open ones too, and quarantine [byte]."""
        sealed = sum(record.bytes for record in self._reader.sealed_records().values())
        live = sum(writer.nbytes for writer in self.live.values())
        return sealed + live + sum(self.waiting.values()) + self._quarantined

    def make_room(self, nbytes: int) -> None:
        """Delete the oldest sealed episodes that are not pinned until `nbytes` more fit.

        Raises:
            StoreFull: deleting all of them would not do; then none is deleted.
        """
        sealed = self._reader.sealed_records()
        victims = [r for i, r in sorted(sealed.items()) if not self._reader.is_pinned(i)]
        used, free = self.used_bytes(), self._disk_free(self._folders.root)
        excess = max(used + nbytes - self._quota_bytes, self._min_free_bytes + nbytes - free)
        if excess > sum(victim.bytes for victim in victims):
            msg = (
                f"no room for {nbytes} more bytes of play: {used} of {self._quota_bytes} used, "
                f"{free} free on disk of which {self._min_free_bytes} must stay; delete or unpin "
                "episodes, raise the quota, or empty quarantine/ and restart"
            )
            raise StoreFull(msg)
        while excess > 0:
            victim = victims.pop(0)
            logger.info("episode %s is deleted to make room", victim.id)
            self.discard(self._folders.sealed_path(victim.id))
            excess -= victim.bytes

    def publish(self, path: Path, record: EpisodeRecord) -> EpisodeInfo:
        """Move a finished episode to the sealed ones. Raises OSError; then it did not move."""
        path.rename(self._folders.sealed_path(record.id))
        self.live.pop(record.id, None)
        try:
            fsync_path(self._folders.episodes)
            fsync_path(self._folders.staging)
        except OSError as error:
            # The episode is there; after a power cut it may be in staging again, and is recovered.
            logger.warning("episode %s: its move is not flushed: %s", record.id, error)
        return EpisodeInfo.of(record, pinned=self._reader.is_pinned(record.id))

    def discard(self, path: Path) -> None:
        """Delete an episode: out of sight by one rename, then file by file. Raises OSError."""
        self.live.pop(path.stem, None)
        doomed = self._folders.trash / path.name
        path.rename(doomed)
        self._reader.unpin(path.stem)
        shutil.rmtree(doomed, ignore_errors=True)
