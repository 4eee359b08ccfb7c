"""What is held and deleted is asked of the recorder, whatever becomes of it meanwhile."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfalign.data.play_store import PlayStore
from server.episode import PlayError
from server.ingest import Ingest, IngestConfig
from server.recordings import Recordings
from server.signals import Signal
from tests.fakes.play_steps import small_spec, step
from tests.fakes.recorded import record
from tests.fakes.thread_process import ThreadRecorder


class Desk:
    """Recordings with a recorder that the test plays."""

    def __init__(self, root: Path, *, patience_s: float = 60.0) -> None:
        self.is_running = True
        self.sent: list[dict[str, Any]] = []
        self.changed = Signal()
        self.recordings = Recordings(
            root, send=self._send, changed=self.changed, patience_s=patience_s
        )

    def _send(self, message: dict[str, Any]) -> bool:
        if self.is_running:
            self.sent.append(message)
        return self.is_running

    def answer(self, **told: Any) -> None:
        request = self.sent[-1]["request"]
        self.recordings.hear({"type": "answer", "request": request, **told})

    async def deleting(self, *episodes: str, pinned: bool = False) -> asyncio.Task[Any]:
        """A deletion that has got as far as it gets without an answer."""
        task = asyncio.create_task(self.recordings.delete(episodes, pinned=pinned))
        await asyncio.sleep(0)
        return task


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.asyncio
async def test_the_recorder_is_asked_and_says_what_is_deleted(desk: Desk) -> None:
    task = await desk.deleting("e-1", "e-2", pinned=True)
    assert desk.sent == [
        {"type": "delete", "request": 1, "episodes": ["e-1", "e-2"], "pinned": True}
    ]
    desk.answer(deleted=[["e-1", 10], ["e-2", 20]])
    assert await task == [("e-1", 10), ("e-2", 20)]


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("recorded", "is being recorded; end it first"),
        ("unfinished", "the next start of the server"),
        ("held", "session s-1; wait for its end, or stop it"),
        ("pinned", "selfalign-client play delete --pinned"),
    ],
)
@pytest.mark.asyncio
async def test_why_an_episode_must_stay_is_said(desk: Desk, use: str, words: str) -> None:
    desk.is_running = False
    desk.recordings.hold("s-1", ("e-1",))
    desk.is_running = True
    task = await desk.deleting("e-1")
    desk.answer(code="episode-in-use", episode="e-1", use=use)
    with pytest.raises(PlayError) as caught:
        await task
    assert words in str(caught.value)
    assert (caught.value.code, caught.value.status) == ("episode-in-use", 409)
    assert (caught.value.extra["episode"], caught.value.extra["use"]) == ("e-1", use)


@pytest.mark.asyncio
async def test_a_session_that_ends_meanwhile_is_not_asked_to_stop(desk: Desk) -> None:
    task = await desk.deleting("e-1")
    desk.answer(code="episode-in-use", episode="e-1", use="held")
    with pytest.raises(PlayError, match="until just now; try again") as caught:
        await task
    assert "session" not in caught.value.extra
    assert "stop" not in str(caught.value)


@pytest.mark.parametrize(("code", "status"), [("unknown-episode", 404), ("store-error", 500)])
@pytest.mark.asyncio
async def test_a_refusal_of_the_store_is_passed_on(desk: Desk, code: str, status: int) -> None:
    task = await desk.deleting("e-1")
    desk.answer(code=code, message="what was wrong")
    with pytest.raises(PlayError, match=r"what was wrong.*play list") as caught:
        await task
    assert (caught.value.code, caught.value.status) == (code, status)


@pytest.mark.asyncio
async def test_a_recorder_that_ends_meanwhile_leaves_nobody_waiting(desk: Desk) -> None:
    task = await desk.deleting("e-1")
    desk.recordings.recorder_ended()
    with pytest.raises(PlayError, match="ended meanwhile") as caught:
        await task
    assert (caught.value.code, caught.value.headers) == ("overloaded", {"Retry-After": "1"})
    desk.answer(deleted=[])


@pytest.mark.asyncio
async def test_a_deletion_waits_for_the_recorder_to_start(desk: Desk) -> None:
    desk.is_running = False
    task = await desk.deleting("e-1")
    desk.is_running = True
    desk.changed.notify()
    while not desk.sent:
        await asyncio.sleep(0)
    desk.answer(deleted=[["e-1", 10]])
    assert await task == [("e-1", 10)]
    assert len(desk.sent) == 1


@pytest.mark.asyncio
async def test_a_recorder_is_asked_one_thing_at_a_time(desk: Desk) -> None:
    """So that one that hangs never has more to read than its pipe holds."""
    first, second = await desk.deleting("e-1"), await desk.deleting("e-2")
    assert [message["episodes"] for message in desk.sent] == [["e-1"]]
    desk.answer(deleted=[["e-1", 10]])
    desk.changed.notify()
    assert await first == [("e-1", 10)]
    while len(desk.sent) < 2:
        await asyncio.sleep(0)
    desk.answer(deleted=[["e-2", 20]])
    assert await second == [("e-2", 20)]


@pytest.mark.asyncio
async def test_what_hangs_is_not_asked_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, patience_s=0.01)
    for _ in range(3):
        with pytest.raises(PlayError, match="is busy"):
            await desk.recordings.delete(["e-1"])
    assert len(desk.sent) == 1


@pytest.mark.parametrize("name", ["", "../w", "\x00" * 10, "e" * 65])
@pytest.mark.asyncio
async def test_a_name_that_no_episode_can_have_is_not_asked_about(desk: Desk, name: str) -> None:
    with pytest.raises(PlayError, match="nothing is deleted") as caught:
        await desk.recordings.delete(["e-1", name])
    assert (caught.value.code, caught.value.status) == ("unknown-episode", 404)
    assert desk.sent == []


@pytest.mark.asyncio
async def test_a_recorder_that_does_not_answer_is_said_in_time(tmp_path: Path) -> None:
    desk = Desk(tmp_path, patience_s=0.01)
    with pytest.raises(PlayError, match="is busy"):
        await desk.recordings.delete(["e-1"])
    desk.answer(deleted=[["e-1", 10]])
    desk.is_running = False
    with pytest.raises(PlayError, match="does not run"):
        await desk.recordings.delete(["e-1"])


def test_holds_are_told_as_a_whole_and_let_go_without_waiting(tmp_path: Path) -> None:
    desk = Desk(tmp_path, patience_s=0.01)
    desk.recordings.hold("s-1", ("e-2", "e-1"))
    desk.recordings.hold("s-2", ("e-2", "e-3"))
    desk.recordings.release("s-1")
    desk.recordings.release("unknown")
    assert [message["episodes"] for message in desk.sent] == [
        ["e-1", "e-2"],
        ["e-1", "e-2", "e-3"],
        ["e-2", "e-3"],
    ]
    assert desk.recordings.held() == ["e-2", "e-3"]


# With the recorder itself.


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[Ingest]:
    config = IngestConfig(tmp_path, quota_bytes=1 << 30, min_free_bytes=0, is_eager=False)
    made = Ingest(config, make_process=ThreadRecorder)
    yield made
    made.close()


@pytest.mark.asyncio
async def test_what_was_held_before_the_recorder_started_is_held_by_it(ingest: Ingest) -> None:
    first, second = record(ingest.config.root, 5, 5)
    ingest.recordings.hold("s-1", (first,))
    with pytest.raises(PlayError, match="session s-1"):
        await ingest.delete([first])
    assert [name for name, _ in await ingest.delete([second])] == [second]
    await asyncio.to_thread(ingest.recordings.hold, "s-1", ())
    assert [name for name, _ in await ingest.delete([first])] == [first]


@pytest.mark.asyncio
async def test_an_episode_that_has_just_ended_can_be_deleted(ingest: Ingest) -> None:
    spec = small_spec()
    episode = await ingest.begin(spec)
    for index in range(5):
        await ingest.add(episode, step(index, spec))
    with pytest.raises(PlayError, match="is being recorded"):
        await ingest.delete([episode.id])
    ingest.end(episode)
    ((name, nbytes),) = await ingest.delete([episode.id])
    assert name == episode.id
    assert nbytes > 0
    assert PlayStore.reader(ingest.config.root).episodes() == []
