"""What a session reads is held from the choice to the end, and what has gone is not chosen."""

import shutil
from pathlib import Path

import pytest

from selfalign.data.episode_reader import EpisodeReader
from selfalign.data.play_reader import PlayReader
from selfalign.data.play_store import PlayStore
from server.play_choice import EpisodeNotFound
from tests.fakes.recorded import record
from tests.fakes.session_desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    record(tmp_path / "play", 60)
    return Desk(tmp_path)


@pytest.mark.parametrize("end", ["stopped", "error"])
def test_what_a_session_reads_is_held_until_its_end_is_told(desk: Desk, end: str) -> None:
    session = desk.begin()
    assert desk.recordings.held == {session: desk.worker.job.episodes}
    desk.worker.tell("begun")
    assert desk.recordings.held
    desk.worker.tell(end, message="what was wrong")
    assert desk.sessions.get(session).is_final
    assert desk.recordings.held == {}


def test_a_session_that_cannot_begin_holds_nothing(desk: Desk) -> None:
    with pytest.raises(EpisodeNotFound):
        desk.begin(source={"episodes": ["nope"]})
    assert desk.recordings.held == {}


def test_a_session_that_cannot_be_handed_over_does_not_stand_in_the_way(desk: Desk) -> None:
    take, desk.worker.submit = desk.worker.submit, lambda job: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        desk.begin()
    assert desk.recordings.held == {}
    assert desk.sessions.list()[0].state == "failed"
    desk.worker.submit = take  # type: ignore[method-assign]
    desk.begin()


def test_an_episode_deleted_while_it_is_looked_at_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = record(tmp_path / "play", 60, 60)
    path = PlayStore.reader(tmp_path / "play").locate(second)
    open_episode = PlayReader.open

    def open_and_lose(reader: PlayReader, episode_id: str) -> EpisodeReader:
        episode = open_episode(reader, episode_id)
        if episode_id == second:
            shutil.rmtree(path)
        return episode

    monkeypatch.setattr(PlayReader, "open", open_and_lose)
    desk = Desk(tmp_path)
    desk.begin()
    assert desk.worker.job.episodes == (first,)


@pytest.mark.parametrize("is_named", [True, False])
def test_an_episode_deleted_while_it_is_chosen_is_not_read(tmp_path: Path, is_named: bool) -> None:  # noqa: FBT001
    first, second = record(tmp_path / "play", 60, 60)
    desk = Desk(tmp_path)
    path = PlayStore.reader(tmp_path / "play").locate(second)
    desk.recordings.on_hold = lambda: shutil.rmtree(path, ignore_errors=True)
    if is_named:
        with pytest.raises(EpisodeNotFound, match=second):
            desk.begin(source={"episodes": [first, second]})
        assert desk.recordings.held == {}
    else:
        session = desk.begin()
        assert desk.worker.job.episodes == (first,)
        assert desk.recordings.held == {session: (first,)}
