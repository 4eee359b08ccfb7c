"""The signal that the server is about to stop.

Uvicorn waits for open connections before it tells the application to shut down; a stream that
never ends would hold it for ever. Streams wait on this signal as well and end when it comes.
"""

from __future__ import annotations

import asyncio
from typing import final


@final
class Drain:
    """A latch. `bind` and `wait` belong to the event loop; `begin` may be called from anywhere."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_set(self) -> bool:
        """True once the server is stopping."""
        return self._event.is_set()

    def bind(self) -> None:
        """Adopt the running event loop."""
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        """Say that the server is stopping. Safe in a signal handler and in any thread."""
        if self._loop is None or self._loop.is_closed():
            self._event.set()
        else:
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Return once the server is stopping."""
        await self._event.wait()
