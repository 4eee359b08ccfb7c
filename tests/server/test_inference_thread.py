from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from server.inference_thread import InferenceThread, NotReady, Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 60


@pytest.fixture
def thread() -> Iterator[InferenceThread]:
    thread = InferenceThread(1, lambda: None)
    yield thread
    thread.close()


async def submit(thread: InferenceThread, number: int) -> int:
    return await thread.submit(lambda: number)


def test_calls_are_computed_in_order_in_one_thread(thread: InferenceThread) -> None:
    seen: list[tuple[int, str]] = []

    async def scenario() -> None:
        for number in range(3):
            await thread.submit(lambda n=number: seen.append((n, threading.current_thread().name)))

    asyncio.run(scenario())

    assert seen == [(0, "inference"), (1, "inference"), (2, "inference")]


def test_what_waits_is_refused_when_the_thread_is_closed(thread: InferenceThread) -> None:
    is_computing, may_end = threading.Event(), threading.Event()

    def compute() -> str:
        is_computing.set()
        assert may_end.wait(WAIT_S)
        return "done"

    async def scenario() -> None:
        first, second = thread.submit(compute), thread.submit(lambda: "too late")
        assert await asyncio.to_thread(is_computing.wait, WAIT_S)
        closing = asyncio.create_task(asyncio.to_thread(thread.close))
        while not thread.is_closed:
            await asyncio.sleep(0)
        may_end.set()
        assert await first == "done"
        with pytest.raises(NotReady, match="stopping"):
            await second
        await closing

    asyncio.run(scenario())

    assert thread.in_flight == 0


def test_a_cancelled_call_that_waits_is_not_computed(thread: InferenceThread) -> None:
    may_end = threading.Event()
    computed: list[str] = []

    async def scenario() -> None:
        first = thread.submit(lambda: may_end.wait(WAIT_S))
        second = thread.submit(lambda: computed.append("second"))
        with pytest.raises(Overloaded):
            thread.submit(lambda: None)
        second.cancel()
        may_end.set()
        await first
        await submit(thread, 3)

    asyncio.run(scenario())

    assert computed == []
    assert thread.in_flight == 0


def test_a_thread_that_cannot_be_prepared_refuses_every_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def prepare() -> None:
        raise RuntimeError("no such device")

    thread = InferenceThread(1, prepare)
    for _ in range(2):
        with pytest.raises(NotReady):
            asyncio.run(submit(thread, 1))
    thread.close()

    assert "no such device" in caplog.text


def test_an_answer_for_an_event_loop_that_has_ended_is_dropped(thread: InferenceThread) -> None:
    may_end = threading.Event()

    async def scenario() -> None:
        thread.submit(lambda: may_end.wait(WAIT_S))

    asyncio.run(scenario())
    may_end.set()

    assert asyncio.run(submit(thread, 4)) == 4
