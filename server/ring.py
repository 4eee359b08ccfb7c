"""Records from the server to the recorder, in memory that outlives either of them.

The memory is an anonymous file handed on by its descriptor: it has no name, so nothing can be left
behind in /dev/shm, and a recorder that is started again finds what the one before had not yet made
durable. One process writes (any thread, one at a time), one process reads.

Layout: a page of counters, then `capacity` bytes used as a circle. Three counters only ever rise:
`head` (bytes written), `tail` (bytes the writer may reuse, since their content is durable) and the
recorder's heartbeat. A record is `length`, `kind`, payload, padded to 8 bytes; it never wraps.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE = mmap.PAGESIZE
_HEADER = struct.Struct("<II")
_ALIGN = 8
_HEAD, _TAIL = 0, 1
_WRAP = 0


@final
@dataclass(frozen=True)
class Record:
    """One record; `end` is the value of `tail` that gives its bytes back.

    The payload is a view of the ring: it holds until then.
    """

    kind: int
    payload: memoryview
    end: int


class RecordTooLarge(ValueError):
    """A record that the ring does not take at any time."""


class RingFull(Exception):
    """There is no room: the recorder is behind, or not running."""


class RingMemory:
    """The mapped memory and its counters, as both sides see it."""

    def __init__(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        self.descriptor = descriptor
        self.capacity = size - _PAGE
        self._map = mmap.mmap(descriptor, size)
        self._view = memoryview(self._map)
        self._counters = self._view[:_PAGE].cast("Q")
        self._bytes = self._view[_PAGE:]
        # Taking a lock orders memory accesses, which Python does not otherwise promise on ARM.
        self._barrier = threading.Lock()

    @classmethod
    def create(cls, capacity: int) -> RingMemory:
        """Make the memory of a new ring; `capacity` in bytes, rounded up to whole pages."""
        descriptor = os.memfd_create("selfalign-play", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _PAGE + -(-capacity // _PAGE) * _PAGE)
        return cls(descriptor)

    @property
    def used(self) -> int:
        """Bytes written and not yet given back."""
        return self._get(_HEAD) - self._get(_TAIL)

    def close(self) -> None:
        """Unmap the memory and close the descriptor."""
        self._counters.release()
        self._bytes.release()
        self._view.release()
        # A record that somebody still holds keeps the memory until it goes.
        with suppress(BufferError):
            self._map.close()
        os.close(self.descriptor)

    def _get(self, counter: int) -> int:
        with self._barrier:
            return self._counters[counter]

    def _set(self, counter: int, value: int) -> None:
        with self._barrier:
            pass
        self._counters[counter] = value

    def _room(self, position: int) -> tuple[int, int]:
        """Offset in the circle of a position, and the bytes from there to its end."""
        offset = position % self.capacity
        return offset, self.capacity - offset


@final
class RingWriter:
    """The server's side. Safe to use from several threads."""

    def __init__(self, memory: RingMemory) -> None:
        self._memory = memory
        self._lock = threading.Lock()

    @property
    def largest(self) -> int:
        """Size of the largest payload that is accepted [byte]."""
        return self._memory.capacity // 4

    def push(self, kind: int, *parts: bytes | memoryview) -> None:
        """Append a record whose payload is the parts (views of bytes), one after the other.

        Raises:
            RingFull: Nothing was written.
            RecordTooLarge: The payload could never fit well.
        """
        size = sum(map(len, parts))
        if size > self.largest:
            raise RecordTooLarge(f"a record of {size} bytes; at most {self.largest} fit")
        need = _HEADER.size + -(-size // _ALIGN) * _ALIGN
        memory = self._memory
        with self._lock:
            head = memory._get(_HEAD)
            offset, left = memory._room(head)
            skip = left if left < need else 0
            if memory.used + skip + need > memory.capacity:
                raise RingFull
            if skip:
                _HEADER.pack_into(memory._bytes, offset, _WRAP, 0)
                offset = 0
            _HEADER.pack_into(memory._bytes, offset, _HEADER.size + size, kind)
            start = offset + _HEADER.size
            for part in parts:
                memory._bytes[start : start + len(part)] = part
                start += len(part)
            memory._set(_HEAD, head + skip + need)


@final
class RingReader:
    """The recorder's side. Starts at the first record that is not durable."""

    def __init__(self, memory: RingMemory) -> None:
        self._memory = memory
        self._next = memory._get(_TAIL)

    @property
    def position(self) -> int:
        """Where the next record starts."""
        return self._next

    @property
    def fill(self) -> float:
        """Share of the ring that is not given back, 0 to 1."""
        return self._memory.used / self._memory.capacity

    def read(self) -> Iterator[Record]:
        """Yield the records written so far. Their memory stays reserved until `commit`."""
        memory = self._memory
        head = memory._get(_HEAD)
        while self._next < head:
            offset, left = memory._room(self._next)
            length, kind = _HEADER.unpack_from(memory._bytes, offset)
            if length == _WRAP:
                self._next += left
                continue
            payload = memory._bytes[offset + _HEADER.size : offset + length]
            self._next += -(-length // _ALIGN) * _ALIGN
            yield Record(kind, payload, self._next)

    def commit(self, position: int) -> None:
        """Give back everything before `position`: it is durable, or not wanted any more."""
        self._memory._set(_TAIL, position)
