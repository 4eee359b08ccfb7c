"""The recorder process: from the ring to the play store.

A record's room in the ring is given back only once its content is on disk, so a recorder that is
killed and started again finds every step that was not durable. Records may therefore be read
twice; a step that is on disk already is skipped by its number.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from selfalign.data.play_store import EpisodeClosed, PlayStore, StoreFull, UnknownEpisode
from selfalign.errors import SelfAlignError, StoreError
from server.play_records import Begin, End, Flush, Step, decode
from server.ring import RingMemory, RingReader
from server.store_requests import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from selfalign.data.play_store import EpisodeWriter
    from server.child import Link
    from server.play_records import Entry

logger = logging.getLogger(__name__)

_RING_HALF_FULL = 0.5
_REMEMBERED = 256
# How often the recorder looks into the ring when nobody wakes it.
_LOOK_S = 0.2
# How often sealing is tried again where the disk refused.
_AGAIN_S = 10.0


@final
@dataclass
class _Live:
    """An episode being written, and where in the ring its steps that are not durable begin."""

    writer: EpisodeWriter
    touched_s: float
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    waiting_since_s: float = 0.0
    told: int = -1


@final
class Recorder:
    """Handles records. Pure of processes, so that tests drive it step by step.

    Args:
        store: Where episodes go; this object is its only writer.
        ring: Where records come from.
        send: How the server is told.
        flush_s: A step waits at most this long for its block to fill.
        idle_s: An episode without a record for this long is sealed: its client is gone.
        clock: Monotonic time.
    """

    def __init__(
        self,
        store: PlayStore,
        ring: RingReader,
        send: Callable[[dict[str, Any]], None],
        *,
        flush_s: float = 2.0,
        idle_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ring = ring
        self._send = send
        self._flush_s = flush_s
        self._idle_s = idle_s
        self._clock = clock
        self._live: dict[str, _Live] = {}
        # Lengths of those that ended; their records may still stand in the ring.
        self._ended: dict[str, int] = {}
        # Those of which the server knows that no step can be added.
        self._refused: dict[str, int] = {}
        # Those given up that the disk refused to seal, and when that is tried again.
        self._unsealed: dict[str, EpisodeWriter] = {}
        self._again_s = 0.0
        self._is_sweeping = False

    def resume(self, episodes: Iterable[str], ended: Mapping[str, int] | None = None) -> None:
        """Go on where the recorder before this one ended.

        Args:
            episodes: Those that the server believes to be open.
            ended: Those that it knows to have ended, and how many steps they had. What the ring
                still holds of them is passed over: they may be deleted by now.
        """
        for episode, length in (ended or {}).items():
            _remember(self._ended, episode, length)
            _remember(self._refused, episode, length)
        for episode in episodes:
            try:
                self._open(self._store.resume_episode(episode))
            except UnknownEpisode:
                self._tell_if_sealed(episode)

    @property
    def is_sweeping(self) -> bool:
        """Whether files of deleted episodes are still to be removed: the next turn has work."""
        return self._is_sweeping

    def turn(self) -> None:
        """Handle every record that waits, write what has waited too long, give room back."""
        start = self._ring.position
        for record in self._ring.read():
            self._handle(decode(record.kind, record.payload), start)
            start = record.end
        now = self._clock()
        crowded = self._ring.fill > _RING_HALF_FULL
        for episode, live in list(self._live.items()):
            if live.waiting and (crowded or now - live.waiting_since_s >= self._flush_s):
                self._write(episode, live, live.writer.flush)
            elif now - live.touched_s >= self._idle_s:
                self._seal(episode, live, reason="idle")
        self._seal_later(now)
        self._tell_durable()
        self._give_back()
        self._is_sweeping = self._store.sweep()

    def answer(self, asked: dict[str, Any]) -> None:
        """Do what the server asks of the store, and tell it."""
        self._send(answer(self._store, asked))
        self._is_sweeping = True

    def close(self) -> None:
        """Seal every open episode."""
        for episode, live in list(self._live.items()):
            self._seal(episode, live, reason="closed")
        self._give_back()

    def _handle(self, entry: Entry, start: int) -> None:
        if isinstance(entry, Begin):
            self._begin(entry)
            return
        live = self._live.get(entry.episode)
        if live is None:
            self._handle_late(entry)
            return
        live.touched_s = self._clock()
        match entry:
            case Step():
                self._step(entry, live, start)
            case Flush():
                self._write(entry.episode, live, live.writer.flush)
            case End():
                self._seal(entry.episode, live, reason="end")

    def _handle_late(self, entry: Step | Flush | End) -> None:
        """A record of an episode that is not open: sealed by us, or by the recorder before."""
        if entry.episode in self._refused:
            return
        length = self._ended.get(entry.episode, 0)
        if isinstance(entry, End):
            self._tell_if_sealed(entry.episode)
        elif isinstance(entry, Step) and entry.index >= length:
            message = f"it is sealed at {length} steps, step {entry.index} came too late"
            self._tell_failed(entry.episode, "episode-sealed", message, length=length)

    def _begin(self, entry: Begin) -> None:
        if entry.episode in self._ended or entry.episode in self._refused:
            return
        if entry.episode not in self._live:
            try:
                writer = self._store.start_episode(
                    entry.spec, meta=entry.meta, episode_id=entry.episode
                )
            except StoreError as error:
                self._tell_failed(entry.episode, _code_of(error), str(error))
                return
            self._open(writer)
        self._send({"type": "started", "episode": entry.episode})

    def _open(self, writer: EpisodeWriter) -> None:
        self._live[writer.id] = _Live(writer, self._clock())

    def _step(self, entry: Step, live: _Live, start: int) -> None:
        received = live.writer.received
        if entry.index < received:
            return
        if entry.index > received:
            message = f"step {entry.index} came where step {received} was due; steps were lost"
            self._give_up(entry.episode, live, "internal-error", message)
            return
        if not live.waiting:
            live.waiting_since_s = live.touched_s
        live.waiting.append((entry.index, start))
        self._write(entry.episode, live, lambda: live.writer.append(entry.step))

    def _write(self, episode: str, live: _Live, write: Callable[[], int]) -> None:
        try:
            durable = write()
        except SelfAlignError as error:
            self._give_up(episode, live, _code_of(error), str(error))
            return
        while live.waiting and live.waiting[0][0] < durable:
            live.waiting.popleft()
            live.waiting_since_s = self._clock()

    def _seal(self, episode: str, live: _Live, *, reason: str) -> None:
        try:
            record = live.writer.seal()
        except StoreError as error:
            self._give_up(episode, live, _code_of(error), str(error))
            return
        del self._live[episode]
        self._tell_sealed(episode, record.length, reason)

    def _give_up(self, episode: str, live: _Live, code: str, message: str) -> None:
        """End an episode that cannot go on; what is durable of it stays."""
        del self._live[episode]
        try:
            length = live.writer.seal(discard_pending=True).length
        except StoreError as error:
            length = live.writer.durable
            self._unsealed[episode] = live.writer
            self._again_s = self._clock() + _AGAIN_S
            logger.warning("episode %s is not sealed yet: %s", episode, error)
        self._tell_failed(episode, code, message, length=length)

    def _seal_later(self, now: float) -> None:
        """Seal what the disk refused to, once it takes it: until then it cannot be deleted."""
        if not self._unsealed or now < self._again_s:
            return
        self._again_s = now + _AGAIN_S
        for episode, writer in list(self._unsealed.items()):
            # Refused again: the next time, or recovery at the next start.
            with suppress(StoreError):
                length = writer.seal(discard_pending=True).length
                del self._unsealed[episode]
                logger.info("episode %s is sealed at %d steps after all", episode, length)

    def _tell_failed(self, episode: str, code: str, message: str, *, length: int = 0) -> None:
        """Tell why an episode takes no steps. Once: those that follow are passed over."""
        _remember(self._refused, episode, length)
        logger.warning("episode %s: %s", episode, message)
        self._send(
            {
                "type": "failed",
                "episode": episode,
                "code": code,
                "message": message,
                "length": length,
            }
        )

    def _tell_if_sealed(self, episode: str) -> None:
        """The recorder before this one may have sealed it and died before it said so."""
        try:
            length = self._store.open(episode).length
        except StoreError:
            return
        self._tell_sealed(episode, length, "end")

    def _tell_sealed(self, episode: str, length: int, reason: str) -> None:
        _remember(self._ended, episode, length)
        self._send({"type": "sealed", "episode": episode, "length": length, "reason": reason})

    def _tell_durable(self) -> None:
        changed = {}
        for episode, live in self._live.items():
            if live.writer.durable != live.told:
                live.told = changed[episode] = live.writer.durable
        if changed:
            self._send({"type": "durable", "episodes": changed})

    def _give_back(self) -> None:
        oldest = (live.waiting[0][1] for live in self._live.values() if live.waiting)
        self._ring.commit(min(oldest, default=self._ring.position))


def _remember(lengths: dict[str, int], episode: str, length: int) -> None:
    lengths[episode] = length
    while len(lengths) > _REMEMBERED:
        del lengths[next(iter(lengths))]


def _code_of(error: SelfAlignError) -> str:
    codes: dict[type[SelfAlignError], str] = {
        StoreFull: "store-full",
        EpisodeClosed: "episode-sealed",
    }
    return codes.get(type(error), "internal-error")


def main(link: Link, config: dict[str, Any]) -> None:
    """Be the recorder process."""
    # The server's death arrives as the end of the pipe; there is still work to do then.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    record(link, config)


def record(link: Link, config: dict[str, Any]) -> None:
    """Record until the server says `exit` or is gone; then drain the ring and seal."""
    ring = RingReader(RingMemory(config["ring"]))
    opened, messages = _opening(link)
    store = PlayStore(
        Path(config["root"]),
        quota_bytes=config["quota_bytes"],
        min_free_bytes=config["min_free_bytes"],
        block_steps=config["block_steps"],
        resume=frozenset(opened["episodes"]),
    )
    store.hold(opened["held"])
    recorder = Recorder(
        store, ring, _telling(link), flush_s=config["flush_s"], idle_s=config["idle_s"]
    )
    recorder.resume(opened["episodes"], opened["ended"])
    link.send({"type": "ready"})
    is_asked_to_leave = False
    while not is_asked_to_leave:
        patience_s = 0.0 if recorder.is_sweeping else min(_LOOK_S, config["flush_s"])
        messages += _heard(link, config["wake"], patience_s)
        link.beat()
        # First what is in the ring: an episode that has ended may be deleted.
        recorder.turn()
        is_asked_to_leave = any(message["type"] == "exit" for message in messages)
        for message in messages:
            if message["type"] != "exit":
                recorder.answer(message)
        messages.clear()
    recorder.close()
    store.close()


def _opening(link: Link) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the server says first, and what it asked while this process was being started."""
    early = []
    while (message := link.receive())["type"] != "open":
        early.append(message)
    return message, early


def _heard(link: Link, wake: int, timeout_s: float) -> list[dict[str, Any]]:
    """Wait for records, a message, or time to look after what waits. Returns the messages."""
    ready = wait([link.descriptor, wake], timeout_s)
    if wake in ready:
        os.eventfd_read(wake)
    if link.descriptor not in ready:
        return []
    try:
        return [link.receive()]
    except EOFError:
        return [{"type": "exit"}]


def _telling(link: Link) -> Callable[[dict[str, Any]], None]:
    """Send to the server; without one, say nothing: the disk has it all."""

    def send(message: dict[str, Any]) -> None:
        try:
            link.send(message)
        except OSError:
            logger.info("the server is gone; %s is not told", message["type"])

    return send
