"""Files that are either the old content or the new one, whatever dies in between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: write beside it, fsync, rename, fsync the directory.

    Raises:
        OSError: Nothing was changed (disk full, no permission).
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and new names in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def quarantine(path: Path) -> Path:
    """Move a damaged file into `quarantine/` beside it (never delete unseen data).

    Returns:
        Where it lies now.
    """
    directory = path.parent / "quarantine"
    directory.mkdir(exist_ok=True)
    target = directory / path.name
    attempt = 1
    while target.exists():
        target = directory / f"{path.name}.{attempt}"
        attempt += 1
    path.replace(target)
    return target
