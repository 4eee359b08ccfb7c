"""What the recorder does to the store since the server asks for it. Step by step, no process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.play_records import Begin, End, Step
from tests.fakes.play_steps import small_spec, step
from tests.fakes.recorder_desk import SPEC, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.memory.close()


def test_a_deleted_episode_does_not_come_back_from_the_ring(desk: Desk) -> None:
    """Its records are still there after a crash, since another robot's step waits before them."""
    desk.push(Begin("e-2", small_spec(name="other"), {}), Step("e-2", 0, step(0, SPEC)))
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 5)
    desk.push(End("e-1"))
    desk.recorder.turn()
    desk.recorder.answer({"type": "delete", "request": 1, "episodes": ["e-1"], "pinned": False})
    desk.kill()
    desk.start("e-2", ended={"e-1": 5})
    desk.recorder.turn()
    assert [info.id for info in desk.store.episodes()] == ["e-2"]
    assert desk.of("failed") == []


def test_many_files_are_removed_between_the_steps_of_play(desk: Desk) -> None:
    names = [f"e-{number}" for number in range(3)]
    for name in names:
        desk.push(Begin(name, SPEC, {}))
        desk.steps(name, 0, 3)
        desk.push(End(name))
    desk.recorder.turn()
    asked = {"type": "delete", "request": 1, "episodes": names, "pinned": False}
    desk.recorder.answer(asked)
    left = []
    while desk.recorder.is_sweeping:
        left.append(len(list((desk.root / "trash").iterdir())))
        assert desk.store.used_bytes() == 0
        desk.recorder.turn()
    assert left == [3, 2, 1]
    assert list((desk.root / "trash").iterdir()) == []


def test_the_server_may_ask_for_what_the_store_does(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}), Begin("e-2", small_spec(name="other"), {}))
    for episode in ("e-1", "e-2"):
        desk.steps(episode, 0, 5)
    desk.push(End("e-1"))
    desk.recorder.turn()

    def delete(number: int, *episodes: str) -> dict[str, Any]:
        asked = {"type": "delete", "request": number, "episodes": list(episodes), "pinned": False}
        desk.recorder.answer(asked)
        answer = desk.told[-1]
        assert (answer.pop("type"), answer.pop("request")) == ("answer", number)
        return answer

    used = {"code": "episode-in-use", "use": "recorded", "episode": "e-2"}
    assert delete(1, "e-1", "e-2") == used
    assert delete(2, "e-1", "e-3")["code"] == "unknown-episode"
    desk.recorder.answer({"type": "hold", "request": 3, "episodes": ["e-1"]})
    assert desk.told[-1] == {"type": "answer", "request": 3}
    assert delete(4, "e-1")["use"] == "held"
    desk.recorder.answer({"type": "hold", "request": 0, "episodes": []})
    assert [name for name, _ in delete(5, "e-1")["deleted"]] == ["e-1"]
    desk.recorder.turn()
    (desk.root / "trash").rmdir()
    desk.recorder.close()
    assert "refused" in delete(6, "e-2")["message"]
