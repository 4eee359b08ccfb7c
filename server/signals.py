"""Wake coroutines from any thread."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class Signal:
    """Something changed. Threads say so, coroutines wait until what they look for is true."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()

    def notify(self) -> None:
        """Let everyone who waits look again. Any thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for loop, future in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_finish, future)

    async def wait_for(self, claim: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `claim()` is true, looking after each `notify`. False when time is up."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not claim():
            entry = (loop, loop.create_future())
            with self._lock:
                self._waiting.add(entry)
            try:
                # It may have come true between the look above and the entry in the list.
                if claim():
                    return True
                async with asyncio.timeout_at(deadline_s):
                    await entry[1]
            except TimeoutError:
                return claim()
            finally:
                with self._lock:
                    self._waiting.discard(entry)
        return True


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
