"""Events of a session: replay, following, gaps, and an end when the server stops."""

import asyncio
import json
import threading

import pytest

from server.drain import Drain
from server.events import Event, EventLog, parse_event_id, server_sent

TIMEOUT_S = 120.0


def log_of(count: int, *, end: bool = False) -> EventLog:
    log = EventLog("s")
    for step in range(count):
        log.append("progress", {"step": step})
    if end:
        log.append("end", {})
    return log


async def collect(log: EventLog, after: int, drain: Drain) -> list[Event | None]:
    return [event async for event in log.follow(after, drain)]


def numbers(events: list) -> list[int]:
    return [event.number for event in events if event is not None]


def test_replay_goes_on_after_the_last_event_seen() -> None:
    assert numbers(log_of(5).after(0)) == [1, 2, 3, 4, 5]
    assert numbers(log_of(5).after(3)) == [4, 5]


def test_lost_events_are_said() -> None:
    events = log_of(2500).after(10)
    assert (events[0].name, events[0].data) == ("gap", {"first_lost": 11, "last_lost": 500})
    assert events[1].number == 501


def test_an_id_of_an_earlier_run_of_the_server_gets_the_end() -> None:
    assert [event.name for event in log_of(0, end=True).after(57)] == ["end"]


@pytest.mark.asyncio
async def test_following_ends_with_the_session() -> None:
    assert numbers(await collect(log_of(3, end=True), 0, Drain())) == [1, 2, 3, 4]


@pytest.mark.asyncio
async def test_followers_hear_what_another_thread_says() -> None:
    log = log_of(1)
    followers = [asyncio.create_task(collect(log, 0, Drain())) for _ in range(3)]
    await asyncio.sleep(0)

    def speak() -> None:
        for step in range(100):
            log.append("progress", {"step": step})
        log.append("end", {})

    thread = threading.Thread(target=speak)
    thread.start()
    results = await asyncio.wait_for(asyncio.gather(*followers), TIMEOUT_S)
    thread.join()
    assert [numbers(result) for result in results] == [list(range(1, 103))] * 3


@pytest.mark.asyncio
async def test_following_ends_when_the_server_stops() -> None:
    drain = Drain()
    drain.bind()
    follower = asyncio.create_task(collect(log_of(2), 0, drain))
    await asyncio.sleep(0)
    drain.begin()
    assert numbers(await asyncio.wait_for(follower, TIMEOUT_S)) == [1, 2]


def test_format_is_that_of_server_sent_events() -> None:
    text = server_sent("s", Event(7, "gates", {"passed": True})).decode()
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
    assert (fields["id"], fields["event"]) == ("s:7", "gates")
    assert json.loads(fields["data"]) == {"passed": True}
    assert text.endswith("\n\n")
    assert server_sent("s", None).startswith(b":")


@pytest.mark.parametrize(
    ("given", "number"), [("s:7", 7), ("t:7", 0), (None, 0), ("s:x", 0), ("7", 0), ("s:-1", 0)]
)
def test_last_event_id_is_read_with_care(given: str | None, number: int) -> None:
    assert parse_event_id("s", given) == number
