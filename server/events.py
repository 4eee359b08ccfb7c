"""What happened in a session, numbered, kept for a while, and followed by streams."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from server.signals import Signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.drain import Drain

_KEPT = 2000
_PING_S = 15.0


@final
@dataclass(frozen=True)
class Event:
    """One event. `number` counts from 1 within its session."""

    number: int
    name: str
    data: dict[str, Any]


@final
class EventLog:
    """The events of one session: any thread appends, streams replay and follow."""

    def __init__(self, session: str) -> None:
        self.session = session
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._count = 0
        self._ended = False
        self._changed = Signal()

    def append(self, name: str, data: dict[str, Any]) -> None:
        """Add an event. After one named `end` nothing follows."""
        with self._lock:
            self._count += 1
            self._events.append(Event(self._count, name, data))
            self._ended = self._ended or name == "end"
        self._changed.notify()

    def after(self, number: int) -> list[Event]:
        """Return the events later than `number`, after a `gap` if some of them are not kept.

        A number from before the server was started again, higher than any of now, gets the last.
        """
        with self._lock:
            if number > self._count:
                number = self._count - 1
            kept = [event for event in self._events if event.number > number]
            first = self._events[0].number if self._events else self._count + 1
        if number + 1 < first:
            lost = {"first_lost": number + 1, "last_lost": first - 1}
            return [Event(first - 1, "gap", lost), *kept]
        return kept

    async def follow(self, number: int, drain: Drain) -> AsyncIterator[Event | None]:
        """Yield events later than `number` as they come, None now and then while none does.

        Ends after `end`, or when the server stops.
        """
        stopping = asyncio.ensure_future(drain.wait())
        stopping.add_done_callback(lambda _: self._changed.notify())
        try:
            while True:
                for event in self.after(number):
                    number = event.number
                    yield event
                if drain.is_set or (self._ended and number >= self._count):
                    return
                if not await self._has_more(number, drain):
                    yield None
        finally:
            stopping.cancel()

    async def _has_more(self, number: int, drain: Drain) -> bool:
        """Wait for an event later than `number`, or the server's end; False when time is up."""
        return await self._changed.wait_for(lambda: self._count > number or drain.is_set, _PING_S)


def parse_event_id(session: str, event_id: str | None) -> int:
    """Return the number in a Last-Event-ID `<session>:<number>`, 0 for any other text."""
    owner, _, number = (event_id or "").rpartition(":")
    return int(number) if owner == session and number.isdecimal() else 0


def server_sent(session: str, event: Event | None) -> bytes:
    """Return an event in the format of server-sent events; a comment for None."""
    if event is None:
        return b": ping\n\n"
    data = json.dumps(event.data, separators=(",", ":"), allow_nan=False)
    return f"id: {session}:{event.number}\nevent: {event.name}\ndata: {data}\n\n".encode()
