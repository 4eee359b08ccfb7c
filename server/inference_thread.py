"""The thread that computes: one call after the other, each answered on the event loop that asked.

A `ThreadPoolExecutor` of one thread does the same; this does it in a third of the instructions,
which counts because a policy's evaluation has just pushed everything else out of the caches.

A small policy answers in a few milliseconds, and waking one thread and then the other is a tenth
of that. So an event loop may help out: what it asks while nothing else waits it computes itself, as
long as calls have been short.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, final

from selfalign.errors import SelfAlignError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_AFTER_S = 1
# So many answers in a row have to be short before a loop computes one.
_RECENT = 16


class Overloaded(SelfAlignError):
    """More observations wait than the queue holds."""

    code = "overloaded"

    def __init__(self, depth: int) -> None:
        super().__init__(
            f"{depth} observations are waiting already (SELFALIGN_QUEUE_DEPTH); send the next one "
            "after its predecessor was answered, or ask less often"
        )
        self.headers = {"Retry-After": str(_RETRY_AFTER_S)}


class NotReady(SelfAlignError):
    """The engine does not answer, or not yet, or not any more."""

    code = "not-ready"
    headers: ClassVar = {"Retry-After": str(_RETRY_AFTER_S)}


@final
class InferenceThread:
    """One thread and the bounded queue of what it is to compute.

    Args:
        depth: how many calls may wait; more are refused at once.
        prepare: called once in the thread, before the first call.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        depth: int,
        prepare: Callable[[], None],
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._depth = depth
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._computing = threading.Lock()
        self._in_flight = 0
        self._is_closed = False
        self._prepare = prepare
        self._now_s = now_s
        self._helper: asyncio.AbstractEventLoop | None = None
        self._has_helped = False
        self._short_s = 0.0
        self._recent_s = deque([math.inf] * _RECENT, _RECENT)
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    @property
    def in_flight(self) -> int:
        """Calls waiting or being computed. Any thread may read it."""
        return self._in_flight

    @property
    def is_closed(self) -> bool:
        """Whether it has been told to end."""
        return self._is_closed

    def let_loop_help(self, short_s: float) -> None:
        """From now on the running event loop computes what it asks for, if it does not wait long.

        That is: nothing else waits or is computed, the last 16 answers took less than `short_s`
        each, and the loop has turned since it last did so. Everything else goes to the thread.
        """
        self._prepare()
        self._helper, self._short_s = asyncio.get_running_loop(), short_s

    def submit(self, compute: Callable[[], T]) -> asyncio.Future[T]:
        """Queue a call, from a coroutine; what is computed settles the future.

        A call whose future is cancelled keeps its place until its turn, or until it is computed.

        Raises:
            Overloaded: the queue is full.
            NotReady: the thread has been told to end.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue(_Call(compute, loop, partial(_settle, future), future.cancelled))
        return future

    def call(self, compute: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """As `submit`, for a function on the event loop: `done` is called there with the outcome.

        Raises:
            As `submit`.
        """
        self._queue(_Call(compute, asyncio.get_running_loop(), done, _never))

    def _queue(self, call: _Call) -> None:
        with self._lock:
            if self._is_closed:
                raise NotReady("the server is stopping")
            if self._in_flight > self._depth:
                raise Overloaded(self._depth)
            self._in_flight += 1
            is_for_loop = self._is_for_loop(call)
            if not is_for_loop:
                self._calls.put(call)
                if self._thread.ident is None:
                    self._thread.start()
        if is_for_loop:
            self._help(call)

    def _is_for_loop(self, call: _Call) -> bool:
        return (
            call.loop is self._helper
            and self._in_flight == 1
            and not self._has_helped
            and max(self._recent_s) < self._short_s
        )

    def _help(self, call: _Call) -> None:
        """Compute a call on the event loop, which then has to turn before it does so again."""
        self._has_helped = True
        try:
            call.done(self._outcome(call))
        finally:
            call.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._has_helped = False

    def close(self) -> None:
        """Finish what is being computed, refuse what waits, end the thread. Idempotent."""
        self._end()
        if self._thread.ident is not None:
            self._thread.join()

    def _end(self) -> None:
        with self._lock:
            self._is_closed = True
            self._calls.put(None)

    def _run(self) -> None:
        try:
            self._prepare()
        except Exception:
            logger.exception("the inference thread could not be prepared; every call is refused")
            self._end()
        while (call := self._calls.get()) is not None:
            self._answer(call)
            # Not kept until the next one comes: it holds the images.
            del call

    def _answer(self, call: _Call) -> None:
        outcome = self._outcome(call)
        try:
            call.loop.call_soon_threadsafe(call.done, outcome)
        except RuntimeError:
            # The event loop has ended, and with it whoever asked.
            return

    def _outcome(self, call: _Call) -> Any:
        outcome: Any = None
        # A loop that does not help may ask while the other computes.
        with self._computing:
            started_s = self._now_s()
            try:
                if self._is_closed:
                    raise NotReady("the server is stopping")
                if not (is_refused := call.is_dropped()):
                    outcome = call.compute()
            except Exception as error:  # noqa: BLE001 - the one edge of this class; told to the caller
                outcome, is_refused = error, True
            took_s = self._now_s() - started_s
        # The place is free before the caller can ask again.
        with self._lock:
            self._in_flight -= 1
            # A refusal says nothing about how long an answer takes, unless it took as long.
            if took_s >= self._short_s or not is_refused:
                self._recent_s.append(took_s)
        return outcome


class _Call(NamedTuple):
    """What is to be computed, and the event loop and function that are told the outcome."""

    compute: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    done: Callable[[Any], None]
    is_dropped: Callable[[], bool]


def _never() -> bool:
    return False


def _settle(future: asyncio.Future[Any], outcome: object) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
