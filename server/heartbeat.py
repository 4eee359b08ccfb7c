"""One number in shared memory: when a helper process last said that it is alive."""

from __future__ import annotations

import mmap
import os
import time
from typing import final


@final
class Heartbeat:
    """A time stamp that the child writes and the server reads. The memory has no name."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._view = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls) -> Heartbeat:
        """Make the memory; its descriptor is handed to the child."""
        descriptor = os.memfd_create("selfalign-beat", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, mmap.PAGESIZE)
        return cls(descriptor)

    def beat(self) -> None:
        """Set the time stamp to now."""
        self._view[0] = time.monotonic_ns()

    def age_s(self) -> float:
        """Return the time since the last beat [s]."""
        return (time.monotonic_ns() - self._view[0]) / 1e9

    def close(self) -> None:
        """Unmap the memory and close the descriptor."""
        self._view.release()
        self._map.close()
        os.close(self.descriptor)
