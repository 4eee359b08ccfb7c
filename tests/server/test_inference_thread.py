from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from server.inference_thread import InferenceThread, NotReady, Overloaded
from tests.fakes.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


# Answers that must be short before the loop helps, and what short means here [s].
RECENT, SHORT_S = 16, 1.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def helped(clock: FakeClock) -> Iterator[InferenceThread]:
    """A thread with room for two that wait, told by a fake clock how long calls take."""
    thread = InferenceThread(2, lambda: None, now_s=clock.now_s)
    yield thread
    thread.close()


def where() -> str:
    """The kind of thread that computes this."""
    is_inference = threading.current_thread().name == "inference"
    return "thread" if is_inference else "loop"


async def places(
    thread: InferenceThread, count: int, compute: Callable[[], str] = where
) -> list[str]:
    """Where calls are computed that come one after the other, each in a turn of its own."""
    found = []
    for _ in range(count):
        found.append(await thread.submit(compute))
        await asyncio.sleep(0)
    return found


def test_the_loop_helps_once_answers_have_been_short(helped: InferenceThread) -> None:
    async def scenario() -> list[str]:
        helped.let_loop_help(SHORT_S)
        return await places(helped, RECENT + 3)

    assert asyncio.run(scenario()) == ["thread"] * RECENT + ["loop"] * 3


def test_one_long_answer_sends_the_next_ones_to_the_thread(
    helped: InferenceThread, clock: FakeClock
) -> None:
    def long() -> str:
        clock.advance(SHORT_S)
        return where()

    async def scenario() -> list[str]:
        helped.let_loop_help(SHORT_S)
        await places(helped, RECENT)
        return await places(helped, 1, long) + await places(helped, RECENT + 1)

    assert asyncio.run(scenario()) == ["loop", *["thread"] * RECENT, "loop"]


def test_refusals_do_not_pass_for_short_answers(helped: InferenceThread) -> None:
    def refuse() -> str:
        raise ValueError("no such robot")

    async def scenario() -> list[str]:
        helped.let_loop_help(SHORT_S)
        for _ in range(RECENT):
            with pytest.raises(ValueError, match="no such robot"):
                await helped.submit(refuse)
        return await places(helped, 1)

    assert asyncio.run(scenario()) == ["thread"]


def test_the_loop_helps_once_a_turn_and_not_while_others_wait(helped: InferenceThread) -> None:
    may_end = threading.Event()

    def hold() -> str:
        assert may_end.wait(WAIT_S)
        return where()

    async def scenario() -> list[str]:
        helped.let_loop_help(SHORT_S)
        await places(helped, RECENT)
        first, second = helped.submit(where), helped.submit(hold)
        assert first.done()
        await asyncio.sleep(0)
        third = helped.submit(where)
        may_end.set()
        return [await call for call in (first, second, third)]

    assert asyncio.run(scenario()) == ["loop", "thread", "thread"]


def test_calls_of_another_loop_go_to_the_thread(helped: InferenceThread) -> None:
    async def lend() -> None:
        helped.let_loop_help(SHORT_S)
        await places(helped, RECENT)

    asyncio.run(lend())

    assert asyncio.run(places(helped, 2)) == ["thread", "thread"]


def test_what_fails_on_the_loop_is_told_as_what_fails_in_the_thread(
    helped: InferenceThread,
) -> None:
    told: list[object] = []

    def fail() -> str:
        raise ValueError(where())

    async def scenario() -> None:
        helped.let_loop_help(SHORT_S)
        await places(helped, RECENT)
        helped.call(fail, told.append)
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="loop"):
            await helped.submit(fail)

    asyncio.run(scenario())

    assert [str(error) for error in told] == ["loop"]
    assert helped.in_flight == 0


def test_a_closed_thread_refuses_what_the_loop_would_compute(helped: InferenceThread) -> None:
    async def scenario() -> None:
        helped.let_loop_help(SHORT_S)
        await places(helped, RECENT)
        helped.close()
        with pytest.raises(NotReady, match="stopping"):
            await helped.submit(where)

    asyncio.run(scenario())


def test_the_loop_is_prepared_as_the_thread_is() -> None:
    prepared: list[str] = []
    thread = InferenceThread(1, lambda: prepared.append(where()))

    async def scenario() -> None:
        await submit(thread, 1)
        thread.let_loop_help(SHORT_S)

    asyncio.run(scenario())
    thread.close()

    assert prepared == ["thread", "loop"]
