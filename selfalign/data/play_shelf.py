"""Room for episodes: what is stored, what must go when more comes, and how it goes."""

import logging
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, final

from selfalign.data.episode_layout import EpisodeRecord, fsync_path, size_on_disk
from selfalign.data.episode_reader import EpisodeInfo
from selfalign.data.episode_writer import EpisodeWriter, StoreFull, StoreWriteError
from selfalign.data.play_reader import PlayReader, UnknownEpisode
from selfalign.errors import StoreError

logger = logging.getLogger(__name__)

Use = Literal["recorded", "unfinished", "held", "pinned"]

_WHY: dict[Use, str] = {
    "recorded": "is being recorded; seal it first",
    "unfinished": "is unfinished; the next start seals it or sets it aside",
    "held": "is being read; release it first",
    "pinned": "is pinned; unpin it first",
}


@final
class EpisodeInUse(StoreError):
    """An episode was to be deleted that must not be.

    Attributes:
        episode: its name.
        use: why it must stay.
    """

    def __init__(self, episode: str, use: Use) -> None:
        super().__init__(f"episode {episode} {_WHY[use]}")
        self.episode, self.use = episode, use


@final
class PlayShelf:
    """Keeps the episodes of a store within its quota. For the process that holds the lock.

    Attributes:
        live: writers of the episodes that are open.
        waiting: size of each episode in staging that no writer has: resumable, or put off [byte].
        held: episodes that somebody reads; not deleted while they are here.
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
        self.held: frozenset[str] = frozenset()
        # In the trash; their files are still to be removed.
        self._doomed: deque[Path] = deque()
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
        """Delete the oldest sealed episodes that nobody keeps until `nbytes` more fit.

        Raises:
            StoreFull: deleting all of them would not do; then none is deleted.
            StoreWriteError: the disk refused to delete one.
        """
        sealed = self._reader.sealed_records()
        victims = [r for i, r in sorted(sealed.items()) if self._use_of(i) is None]
        used, free = self.used_bytes(), self._free_bytes(nbytes)
        beyond_quota = used + nbytes - self._quota_bytes
        excess = max(beyond_quota, self._min_free_bytes + nbytes - free)
        spare = sum(victim.bytes for victim in victims)
        if excess > spare:
            raise StoreFull(
                f"no room for {_mb(nbytes)} more of play: {_mb(used)} of {_mb(self._quota_bytes)} "
                f"used, {_mb(free)} free on disk of which {_mb(self._min_free_bytes)} must stay; "
                f"the episodes that nothing keeps would free {_mb(spare)}; "
                + self._remedies(is_quota=beyond_quota > spare)
            )
        while excess > 0:
            victim = victims.pop(0)
            logger.info("episode %s is deleted to make room", victim.id)
            self._bury([victim.id])
            self.sweep_all()
            excess -= victim.bytes

    def delete(self, episode_ids: Iterable[str], *, pinned: bool) -> list[EpisodeRecord]:
        """Delete sealed episodes: all of them, or none where one must not be deleted.

        Their files are there until they are swept away.

        Args:
            episode_ids: their names.
            pinned: delete pinned ones, too.

        Raises:
            UnknownEpisode: there is no episode of one of the names.
            EpisodeInUse: one of them must stay.
            StoreWriteError: the disk refused; what comes before in the order given is deleted.
        """
        sealed = self._reader.sealed_records()
        chosen = list(dict.fromkeys(episode_ids))
        for episode_id in chosen:
            if not any(episode_id in known for known in (sealed, self.live, self.waiting)):
                msg = f"no episode {episode_id[:80]!r} in {self._folders.root}"
                raise UnknownEpisode(msg)
            use = self._use_of(episode_id)
            if use is not None and not (pinned and use == "pinned"):
                raise EpisodeInUse(episode_id, use)
        self._bury(chosen)
        return [sealed[episode_id] for episode_id in chosen]

    def sweep(self) -> bool:
        """Remove the files of one deleted episode. Returns whether there are more."""
        if self._doomed:
            path = self._doomed.popleft()
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                logger.warning("%s is not removed completely; the next start tries again", path)
        return bool(self._doomed)

    def sweep_all(self) -> None:
        """Remove the files of every deleted episode."""
        while self.sweep():
            pass

    def publish(self, path: Path, record: EpisodeRecord) -> EpisodeInfo:
        """Move a finished episode to the sealed ones. Raises OSError; then it did not move."""
        path.rename(self._folders.sealed_path(record.id))
        self.live.pop(record.id, None)
        # After a power cut it may be in staging again, and is recovered.
        self._flush(record.id, self._folders.episodes, self._folders.staging)
        return EpisodeInfo.of(record, pinned=self._reader.is_pinned(record.id))

    def discard(self, path: Path) -> None:
        """Give up an episode that is being written. Raises OSError."""
        self.live.pop(path.stem, None)
        self._move_to_trash(path)
        self.sweep_all()

    def _bury(self, episode_ids: list[str]) -> None:
        """Put sealed episodes out of sight. What is left of them, also recovery removes."""
        try:
            for episode_id in episode_ids:
                self._move_to_trash(self._folders.sealed_path(episode_id))
        except OSError as error:
            raise StoreWriteError(f"the disk refused to delete an episode: {error}") from error
        finally:
            # Before the first file goes, so that a power cut brings none back with parts missing.
            self._flush(", ".join(episode_ids), self._folders.episodes, self._folders.trash)

    def _move_to_trash(self, path: Path) -> None:
        doomed = self._folders.trash / path.name
        path.rename(doomed)
        self._doomed.append(doomed)
        self._reader.unpin(path.stem)

    def _free_bytes(self, nbytes: int) -> int:
        """Free space of the disk; where that is short, after what is deleted has been removed."""
        free = self._disk_free(self._folders.root)
        if self._doomed and free < self._min_free_bytes + nbytes:
            self.sweep_all()
            free = self._disk_free(self._folders.root)
        return free

    def _use_of(self, episode_id: str) -> Use | None:
        """Why an episode must not be deleted, or None if it may be."""
        if episode_id in self.live:
            return "recorded"
        if episode_id in self.waiting:
            return "unfinished"
        if episode_id in self.held:
            return "held"
        return "pinned" if self._reader.is_pinned(episode_id) else None

    def _remedies(self, *, is_quota: bool) -> str:
        """What helps a full store, by what fills it."""
        kept: Counter[Use | None] = Counter()
        for record in self._reader.sealed_records().values():
            kept[self._use_of(record.id)] += record.bytes
        live = sum(writer.nbytes for writer in self.live.values())
        ways = {
            "unpin or delete pinned episodes": kept["pinned"],
            "let the alignment end that reads episodes": kept["held"],
            "end what is being recorded": live,
            "empty quarantine/ and restart": self._quarantined,
        }
        helpful = [f"{way} ({_mb(nbytes)})" for way, nbytes in ways.items() if nbytes]
        last = "raise the quota" if is_quota else "free the disk of other files"
        return ", ".join([*helpful, last])

    def _flush(self, episodes: str, *folders: Path) -> None:
        try:
            for folder in folders:
                fsync_path(folder)
        except OSError as error:
            logger.warning("episode %s: its move is not flushed: %s", episodes, error)


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"
