"""One server for one data directory: two would overwrite each other's W."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, final

from selfalign.errors import SelfAlignError

if TYPE_CHECKING:
    from pathlib import Path

_NAME = ".server.lock"


class DataDirInUse(SelfAlignError):
    """Another server has its data here."""

    def __init__(self, root: Path, owner: str) -> None:
        super().__init__(
            f"data directory {root} is in use by another server"
            f"{f' (process {owner})' if owner else ''}; stop it, or choose another with --data-dir"
        )


class DataDirUnusable(SelfAlignError):
    """Nothing can be written there."""

    def __init__(self, root: Path, error: OSError) -> None:
        super().__init__(
            f"data directory {root} cannot be used: {error.strerror}; it must be a directory that "
            "the server may write to, choose another with --data-dir"
        )


@final
class DataLock:
    """Holds a data directory until `release`, or until the process dies in whatever way.

    Raises:
        DataDirInUse: another process holds it.
        DataDirUnusable: the directory cannot be made or written to.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(root / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataDirUnusable(root, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise DataDirInUse(root, owner) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give the directory back. May be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
