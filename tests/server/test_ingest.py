"""Play on its way in, with the real recorder process; and without one, where it must be dead."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from selfalign.data.play_store import BadPlayStep, PlayStore
from selfalign.data.spec import RobotSpec
from server.episode import Episode, PlayError
from server.ingest import Ingest, IngestConfig
from server.play_records import STEP
from server.ring import RingReader
from tests.fakes.play_steps import assert_is_steps, small_spec, step
from tests.fakes.process import FakeProcess

SPEC = small_spec()
TIMEOUT_S = 120.0


def config(root: Path, **changes: Any) -> IngestConfig:
    given: dict[str, Any] = {
        "root": root / "play",
        "quota_bytes": 1 << 30,
        "min_free_bytes": 0,
        "ring_bytes": 1 << 20,
        "patience_s": TIMEOUT_S,
        "is_eager": False,
    }
    return IngestConfig(**{**given, **changes})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingest]:
    """One real recorder process for all tests that only need one."""
    made = Ingest(config(tmp_path_factory.mktemp("ingest")))
    made.start()
    yield made
    made.close()


class Desk:
    """Ingest with a recorder that the test plays."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.processes: list[FakeProcess] = []
        self.ingest = Ingest(config(root, **changes), make_process=self._make)

    def _make(self, *given: Any, **callbacks: Any) -> FakeProcess:
        self.processes.append(FakeProcess(*given, **callbacks))
        return self.processes[0]

    def tell(self, kind: str, **message: Any) -> None:
        self.processes[0].tell({"type": kind, **message})

    def fail(self, episode: str, code: str, length: int = 0) -> None:
        self.tell("failed", episode=episode, code=code, message="no room", length=length)

    async def begin(self, spec: RobotSpec = SPEC) -> Episode:
        beginning = asyncio.create_task(self.ingest.begin(spec))
        await asyncio.sleep(0)
        episode = self.ingest.open_episode(spec.name)
        assert episode is not None
        self.tell("started", episode=episode.id)
        return await beginning


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.ingest.close()


async def play(ingest: Ingest, episode: Episode, start: int, stop: int) -> None:
    for index in range(start, stop):
        await ingest.add(episode, step(index, episode.spec))


def check(ingest: Ingest, episode: Episode, length: int) -> None:
    reader = PlayStore.reader(ingest.config.root).open(episode.id)
    assert reader.length == length
    assert_is_steps(reader.read(0, length), 0, length, episode.spec)


# With the real process.


@pytest.mark.asyncio
async def test_play_becomes_durable_in_another_process(running: Ingest) -> None:
    episode = await running.begin(SPEC, {"operator": "me"})
    await play(running, episode, 0, 20)
    assert episode.received == 20
    assert await running.sync(episode) == 20
    check(running, episode, 20)
    running.end(episode)
    assert await running.sealed(episode) == 20
    assert running.healthy()["pid"] != os.getpid()


@pytest.mark.asyncio
async def test_two_robots_play_at_once(running: Ingest) -> None:
    other = small_spec(name="other")
    first, second = await running.begin(SPEC), await running.begin(other)
    for index in range(3):
        await running.add(first, step(index, SPEC))
        await running.add(second, step(index, other))
    running.end(first)
    third = await running.begin(SPEC)
    assert third.id > first.id
    for episode in (second, third):
        running.end(episode)
    assert await running.sealed(second) == 3
    assert await running.sealed(first) == 3
    check(running, first, 3)


@pytest.mark.asyncio
async def test_killing_the_recorder_loses_nothing_and_closing_seals(tmp_path: Path) -> None:
    """Killed in the middle of play; the episode stays one and the same."""
    ingest = Ingest(config(tmp_path))
    episode = await ingest.begin(SPEC)
    await play(ingest, episode, 0, 21)
    os.kill(ingest.healthy()["pid"], signal.SIGKILL)
    await play(ingest, episode, 21, 50)
    assert await ingest.sync(episode) == 50
    assert ingest.healthy()["restarts"] == 1
    check(ingest, episode, 50)
    await play(ingest, episode, 50, 55)
    child = ingest.healthy()["pid"]
    await asyncio.to_thread(ingest.close)
    await asyncio.to_thread(ingest.close)
    check(ingest, episode, 55)
    assert PlayStore.reader(tmp_path / "play").episodes()[0].sealed
    assert not psutil.pid_exists(child)


SERVER = """
import asyncio, sys, time
from pathlib import Path
from server.ingest import Ingest, IngestConfig
from tests.fakes.play_steps import small_spec, step

async def main():
    root = Path(sys.argv[1])
    ingest = Ingest(
        IngestConfig(root=root, quota_bytes=1 << 30, min_free_bytes=0, patience_s=120.0)
    )
    episode = await ingest.begin(small_spec())
    for index in range(21):
        await ingest.add(episode, step(index, episode.spec))
    print(episode.id, ingest.healthy()["pid"], flush=True)
    time.sleep(600)

asyncio.run(main())
"""


def test_killing_the_server_loses_nothing_that_was_received(tmp_path: Path) -> None:
    """The recorder outlives it for as long as it takes to write what is in the ring."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        episode, recorder = server.stdout.readline().split()
    finally:
        server.kill()
        server.wait(TIMEOUT_S)
        server.stdout.close()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(recorder)).wait(TIMEOUT_S)
    reader = PlayStore.reader(tmp_path).open(episode)
    assert reader.sealed
    assert reader.length == 21
    assert_is_steps(reader.read(0, 21), 0, 21, SPEC)


# With a recorder that the test plays.


@pytest.mark.asyncio
async def test_second_episode_of_a_robot_is_refused(desk: Desk) -> None:
    first = await desk.begin()
    with pytest.raises(PlayError, match=f"being recorded in episode {first.id}") as caught:
        await desk.ingest.begin(SPEC)
    assert (caught.value.code, caught.value.status) == ("play-busy", 409)
    desk.ingest.end(first)
    await desk.begin()


@pytest.mark.asyncio
async def test_full_store_is_said_at_the_beginning(desk: Desk) -> None:
    beginning = asyncio.create_task(desk.ingest.begin(SPEC))
    await asyncio.sleep(0)
    episode = desk.ingest.open_episode(SPEC.name)
    assert episode is not None
    desk.fail(episode.id, "store-full")
    with pytest.raises(PlayError) as caught:
        await beginning
    assert (caught.value.code, caught.value.status) == ("store-full", 507)
    assert desk.ingest.open_episode(SPEC.name) is None
    await desk.begin()


@pytest.mark.asyncio
async def test_full_store_in_between_fails_what_follows(desk: Desk) -> None:
    episode = await desk.begin()
    await play(desk.ingest, episode, 0, 3)
    desk.fail(episode.id, "store-full", length=2)
    for attempt in (
        desk.ingest.add(episode, step(3, SPEC)),
        desk.ingest.sync(episode),
        desk.ingest.sealed(episode),
    ):
        with pytest.raises(PlayError) as caught:
            await attempt
        assert (caught.value.code, caught.value.extra) == ("store-full", {"durable": 2})
        assert "selfalign-client play delete" in str(caught.value)


@pytest.mark.asyncio
async def test_a_silent_episode_frees_the_robot(desk: Desk) -> None:
    episode = await desk.begin()
    await play(desk.ingest, episode, 0, 1)
    desk.tell("sealed", episode=episode.id, length=1, reason="idle")
    with pytest.raises(PlayError, match="sealed at 1 steps") as caught:
        await desk.ingest.add(episode, step(1, SPEC))
    assert (caught.value.code, caught.value.status) == ("episode-sealed", 409)
    await desk.begin()


@pytest.mark.asyncio
async def test_a_new_recorder_is_told_what_is_open(desk: Desk) -> None:
    first = await desk.begin()
    second = await desk.begin(small_spec(name="other"))
    desk.ingest.end(first)
    third = await desk.begin()
    desk.tell("sealed", episode=second.id, length=0, reason="idle")
    desk.processes[0].on_start()
    # `first` has ended but is not sealed yet.
    assert desk.processes[0].sent[-1] == {
        "type": "open",
        "episodes": [first.id, third.id],
        "ended": {second.id: 0},
        "held": [],
    }


@pytest.mark.asyncio
async def test_without_a_recorder_play_is_refused_in_time(tmp_path: Path) -> None:
    desk = Desk(tmp_path, patience_s=0.05)
    with pytest.raises(PlayError, match="recorder is behind") as caught:
        await desk.ingest.begin(SPEC)
    assert (caught.value.code, caught.value.headers) == ("overloaded", {"Retry-After": "1"})
    desk.ingest.close()


@pytest.mark.asyncio
async def test_a_ring_that_stays_full_refuses_but_keeps_what_it_took(tmp_path: Path) -> None:
    desk = Desk(tmp_path, patience_s=0.05, ring_bytes=1 << 16)
    spec = small_spec(height=32, width=32)
    episode = await desk.begin(spec)
    with pytest.raises(PlayError, match="recorder is behind"):
        await play(desk.ingest, episode, 0, 1000)
    received = episode.received
    assert received > 5
    kinds = [record.kind for record in RingReader(desk.ingest._memory).read()]
    assert kinds.count(STEP) == received
    desk.ingest.close()


@pytest.mark.asyncio
async def test_waiting_for_room_ends_when_there_is_some(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ring_bytes=1 << 16)
    spec = small_spec(height=32, width=32)
    episode = await desk.begin(spec)
    playing = asyncio.create_task(play(desk.ingest, episode, 0, 40))
    reader = RingReader(desk.ingest._memory)
    steps = 0
    while steps < 40:
        await asyncio.sleep(0)
        steps += sum(record.kind == STEP for record in reader.read())
        reader.commit(reader.position)
        desk.tell("durable", episodes={episode.id: steps})
    await playing
    assert (episode.received, episode.durable) == (40, 40)
    desk.ingest.close()


@pytest.mark.asyncio
async def test_wrong_steps_are_not_taken(desk: Desk) -> None:
    episode = await desk.begin()
    await desk.ingest.add(episode, step(3, SPEC))
    with pytest.raises(BadPlayStep, match="t_ns"):
        await desk.ingest.add(episode, step(3, SPEC))
    assert episode.received == 1


@pytest.mark.asyncio
async def test_step_larger_than_the_ring_takes_is_refused(desk: Desk) -> None:
    camera = SPEC.cameras[0].model_copy(update={"height": 2600, "width": 2600})
    large = SPEC.model_copy(update={"cameras": (camera,)})
    episode = await desk.begin(large)
    with pytest.raises(PlayError, match="too large") as caught:
        await desk.ingest.add(episode, step(0, large))
    assert (caught.value.code, caught.value.status) == ("body-too-large", 413)
    assert episode.received == 0


@pytest.mark.asyncio
async def test_meta_that_is_too_large_or_no_json_is_refused(desk: Desk) -> None:
    for meta in ({"x": "y" * 70_000}, {"x": float("nan")}, {"x": object()}):
        with pytest.raises(PlayError) as caught:
            await desk.ingest.begin(SPEC, meta)
        assert caught.value.status == 422


def test_unknown_episode_is_said(desk: Desk) -> None:
    with pytest.raises(PlayError, match="'nope' is not open here"):
        desk.ingest.find("nope")
