"""What a writer does first: finish or set aside what a crash has left in `staging/`."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from selfalign.data.episode_layout import (
    CAPACITY,
    DamagedEpisode,
    EpisodeRecord,
    fsync_path,
    missing_chunk,
    open_arrays,
    read_record,
    read_rows,
    reshape_arrays,
    write_record,
)
from selfalign.data.episode_writer import seal_in_place
from selfalign.data.play_reader import StoreFolders

logger = logging.getLogger(__name__)

# Blocks at the end of an episode that are decoded. A process that dies damages none; a power cut
# can damage those that the kernel had not written yet, about the last half minute.
_DECODED_BLOCKS = 64


@final
@dataclass(frozen=True)
class RecoveryReport:
    """Identifiers of the episodes that recovery found unfinished, by what became of them.

    Attributes:
        sealed: kept up to the last step that is whole.
        quarantined: moved to `quarantine/`, as they hold data but no step that can be trusted.
        discarded: deleted, as they held no data at all.
        resumable: left open, as asked for; `PlayStore.resume_episode` goes on with them.
        postponed: left as they were, since the disk refused; tried again at the next start.
    """

    sealed: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()
    discarded: tuple[str, ...] = ()
    resumable: tuple[str, ...] = ()
    postponed: tuple[str, ...] = ()


def recover(folders: StoreFolders, resume: frozenset[str] = frozenset()) -> RecoveryReport:
    """Seal, quarantine or discard every unfinished episode, and empty the trash.

    Episodes named in `resume` are left open instead, cut to what is whole, also without any step.

    Only for the process that holds the lock of the store.
    """
    for path in folders.trash.iterdir():
        (folders.pins / path.stem).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    fates: dict[str, list[str]] = {}
    for path in sorted(folders.staging.iterdir()):
        try:
            fate = _recover_one(path, folders, resume)
        except OSError as error:
            logger.warning("recovery of %s is put off: %s", path.name, error)
            fate = "postponed"
        fates.setdefault(fate, []).append(path.stem)
    for path in sorted(folders.episodes.iterdir()):
        if not _has_record(path):
            _quarantine(path, folders)
            fates.setdefault("quarantined", []).append(path.stem)
    report = RecoveryReport(**{fate: tuple(ids) for fate, ids in fates.items()})
    if fates:
        logger.info("play store recovered: %s", report)
    return report


def _recover_one(path: Path, folders: StoreFolders, resume: frozenset[str]) -> str:
    for leftover in path.rglob("*.partial"):
        leftover.unlink()
    record = _trusted_record(path)
    if record is not None and record.id in resume and not record.sealed:
        # A crash while it was being sealed may have trimmed some arrays already.
        reshape_arrays(path, record.spec, CAPACITY)
        write_record(path, record, fsync=True)
        return "resumable"
    if record is not None and record.length > 0:
        sealed = seal_in_place(path, record, recovered=True)
        path.rename(folders.sealed_path(sealed.id))
        fsync_path(folders.episodes)
        fsync_path(folders.staging)
        return "sealed"
    if any(item.is_file() for item in path.rglob("c.*")):
        _quarantine(path, folders)
        return "quarantined"
    _remove(path)
    return "discarded"


def _trusted_record(path: Path) -> EpisodeRecord | None:
    """Return the record, cut to the steps that are whole, or None if it cannot be used."""
    try:
        record = read_record(path)
        length = _whole_steps(path, record)
    except (DamagedEpisode, FileNotFoundError, NotADirectoryError) as error:
        logger.warning("%s: %s", path.name, error)
        return None
    if record.id != path.stem:
        logger.warning("%s: its record is that of episode %s", path.name, record.id)
        return None
    if length < record.length:
        logger.warning("%s: %d of %d steps are whole", path.name, length, record.length)
    runs = tuple(run for run in record.instructions if run[0] < length)
    return record.model_copy(update={"length": length, "instructions": runs})


def _whole_steps(path: Path, record: EpisodeRecord) -> int:
    """Count the steps below the watermark whose blocks are there and, at the end, decode."""
    arrays = open_arrays(path, record.spec)
    step = record.block_steps
    starts = range(0, record.length, step)
    for start in starts:
        stop = min(start + step, record.length)
        if missing_chunk(path, arrays, step, start, stop) is not None:
            return start
    for start in starts[-_DECODED_BLOCKS:]:
        stop = min(start + step, record.length)
        try:
            rows = {name: read_rows(array, start, stop) for name, array in arrays.items()}
        except DamagedEpisode as error:
            logger.warning("%s: %s", path.name, error)
            return start
        if not (np.diff(rows["t_ns"]) > 0).all():
            return start
    return record.length


def _has_record(path: Path) -> bool:
    try:
        return read_record(path).sealed
    except (DamagedEpisode, OSError) as error:
        logger.warning("%s: %s", path.name, error)
        return False


def _quarantine(path: Path, folders: StoreFolders) -> None:
    target = folders.quarantine / path.name
    attempt = 1
    while target.exists():
        attempt += 1
        target = folders.quarantine / f"{path.name}.{attempt}"
    path.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
