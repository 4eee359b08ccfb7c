"""A recorder driven step by step by the test, and what it needs: no process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from selfalign.data.play_store import PlayStore
from server.play_records import Step, encode
from server.recorder import Recorder
from server.ring import RingMemory, RingReader, RingWriter
from tests.fakes.play_steps import assert_is_steps, small_spec, step

if TYPE_CHECKING:
    from pathlib import Path

SPEC = small_spec()
BLOCK = 16


class Desk:
    """A ring, a store and a recorder; `restart` kills the recorder and starts the next."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.memory = RingMemory.create(1 << 20)
        self.ring = RingWriter(self.memory)
        self.now_s = 0.0
        self.free_bytes = 1 << 40
        self.told: list[dict[str, Any]] = []
        self.store: PlayStore
        self.recorder: Recorder
        self.start()

    def start(self, *resume: str, ended: dict[str, int] | None = None) -> None:
        self.store = PlayStore(
            self.root,
            quota_bytes=1 << 30,
            min_free_bytes=0,
            block_steps=BLOCK,
            disk_free=lambda path: self.free_bytes,
            resume=frozenset(resume),
        )
        self.recorder = Recorder(
            self.store,
            RingReader(self.memory),
            self.told.append,
            flush_s=2.0,
            idle_s=30.0,
            clock=lambda: self.now_s,
        )
        self.recorder.resume(resume, ended)

    def kill(self) -> None:
        """Drop the lock and everything in memory, as the end of a process does."""
        release(self.store)

    def push(self, *entries: Any) -> None:
        for entry in entries:
            self.ring.push(*encode(entry))

    def steps(self, episode: str, start: int, stop: int) -> None:
        self.push(*(Step(episode, index, step(index, SPEC)) for index in range(start, stop)))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.told if message["type"] == kind]

    def durable(self, episode: str) -> int:
        return max(
            (m["episodes"].get(episode, 0) for m in self.of("durable")),
            default=0,
        )

    def check(self, episode: str, length: int) -> None:
        reader = PlayStore.reader(self.root).open(episode)
        assert reader.length == length
        assert_is_steps(reader.read(0, length), 0, length, SPEC)


def release(store: PlayStore) -> None:
    """Give up the store's lock without sealing anything."""
    os.close(store._lock)
    store._lock = -1
