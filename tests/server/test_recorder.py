"""The recorder: from the ring to the store, whatever dies when. Driven step by step, no process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfalign.data.episode_layout import CAPACITY
from selfalign.data.play_store import PlayStore
from server.play_records import Begin, End, Flush, Step, decode, encode
from tests.fakes.play_steps import small_spec, step
from tests.fakes.play_store import files_of_at_most
from tests.fakes.recorder_desk import SPEC, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.memory.close()


@pytest.mark.parametrize(
    "entry",
    [
        Begin("e-1", SPEC, {"operator": "me"}),
        Flush("e-1"),
        End("e-1"),
    ],
)
def test_entries_survive_the_ring(entry: Any) -> None:
    assert decode(*encode(entry)) == entry


def test_steps_survive_the_ring() -> None:
    sent = step(5, SPEC)
    kind, *parts = encode(Step("e-1", 5, sent))
    got = decode(kind, b"".join(parts))
    assert isinstance(got, Step)
    assert (got.episode, got.index, got.step.t_ns) == ("e-1", 5, sent.t_ns)
    assert got.step.observation.instruction == sent.observation.instruction
    for name, image in sent.observation.images.items():
        assert (got.step.observation.images[name] == image).all()
        assert any(np.shares_memory(np.frombuffer(part, np.uint8), image) for part in parts)
    assert (got.step.action == sent.action).all()
    assert (got.step.observation.state == sent.observation.state).all()


def test_an_episode_is_recorded_and_sealed(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {"operator": "me"}))
    desk.steps("e-1", 0, 40)
    desk.push(End("e-1"))
    desk.recorder.turn()
    assert desk.of("started") == [{"type": "started", "episode": "e-1"}]
    assert desk.of("sealed")[0]["length"] == 40
    desk.check("e-1", 40)
    assert desk.memory.used == 0
    assert PlayStore.reader(desk.root).open("e-1").meta == {"operator": "me"}


def test_only_whole_blocks_are_durable_until_time_is_up(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 20)
    desk.recorder.turn()
    assert desk.durable("e-1") == 16
    desk.now_s += 1.9
    desk.recorder.turn()
    assert desk.durable("e-1") == 16
    desk.now_s += 0.2
    desk.recorder.turn()
    assert desk.durable("e-1") == 20
    assert desk.memory.used == 0


def test_flush_makes_everything_durable(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 3)
    desk.push(Flush("e-1"))
    desk.recorder.turn()
    assert desk.durable("e-1") == 3


def test_room_is_kept_for_steps_that_are_not_durable(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 16)
    desk.recorder.turn()
    assert desk.memory.used == 0
    desk.steps("e-1", 16, 20)
    waiting = desk.memory.used
    desk.recorder.turn()
    assert desk.memory.used == waiting > 0


def test_a_crowded_ring_is_relieved_at_once(desk: Desk) -> None:
    """One robot that stands still must not hold up another that plays."""
    large = small_spec(name="two", height=100, width=100)
    desk.push(Begin("e-1", SPEC, {}), Begin("e-2", large, {}))
    desk.steps("e-1", 0, 1)
    index = 0
    while desk.memory.used < desk.memory.capacity * 0.6:
        desk.push(Step("e-2", index, step(index, large)))
        index += 1
    desk.recorder.turn()
    assert desk.durable("e-1") == 1
    assert desk.memory.used < desk.memory.capacity * 0.1


@pytest.mark.parametrize("length", [0, 5, 16, 20, 35])
def test_a_killed_recorder_loses_nothing(desk: Desk, length: int) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, length)
    desk.recorder.turn()
    desk.kill()
    desk.steps("e-1", length, length + 9)
    desk.start("e-1")
    desk.steps("e-1", length + 9, 50)
    desk.push(End("e-1"))
    desk.recorder.turn()
    assert desk.of("failed") == []
    assert desk.of("sealed")[-1]["length"] == 50
    desk.check("e-1", 50)


def test_killed_before_it_read_anything(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 5)
    desk.kill()
    desk.start("e-1")
    desk.push(End("e-1"))
    desk.recorder.turn()
    desk.check("e-1", 5)


def test_killed_after_sealing_says_so_again(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 5)
    desk.push(End("e-1"))
    tail = desk.memory._counters[1]
    desk.recorder.turn()
    # As if it had died before it gave the room in the ring back.
    desk.memory._counters[1] = tail
    desk.kill()
    desk.told.clear()
    desk.start("e-1")
    desk.recorder.turn()
    assert {message["length"] for message in desk.of("sealed")} == {5}
    assert desk.of("failed") == []
    desk.check("e-1", 5)
    assert desk.memory.used == 0


def test_flushed_partial_block_goes_on_after_a_kill(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 20)
    desk.push(Flush("e-1"))
    desk.recorder.turn()
    desk.kill()
    desk.start("e-1")
    desk.steps("e-1", 20, 40)
    desk.push(End("e-1"))
    desk.recorder.turn()
    desk.check("e-1", 40)


def test_a_silent_episode_is_sealed(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 5)
    desk.recorder.turn()
    desk.now_s += 29
    desk.recorder.turn()
    assert desk.of("sealed") == []
    desk.now_s += 32
    desk.recorder.turn()
    assert desk.of("sealed") == [
        {"type": "sealed", "episode": "e-1", "length": 5, "reason": "idle"}
    ]
    desk.steps("e-1", 5, 6)
    desk.recorder.turn()
    assert desk.of("failed")[0]["code"] == "episode-sealed"


def test_steps_that_come_too_late_are_told_and_logged_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 5)
    desk.push(End("e-1"))
    desk.recorder.turn()
    for index in range(5, 9):
        desk.steps("e-1", index, index + 1)
        desk.recorder.turn()
    (failed,) = desk.of("failed")
    assert failed["message"] == "it is sealed at 5 steps, step 5 came too late"
    assert caplog.text.count("e-1") == 1
    assert desk.memory.used == 0


def test_what_comes_after_the_store_was_full_does_not_hide_that(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 20)
    desk.recorder.turn()
    desk.free_bytes = 0
    desk.steps("e-1", 20, 60)
    desk.push(End("e-1"))
    desk.recorder.turn()
    assert [message["code"] for message in desk.of("failed")] == ["store-full"]
    assert desk.of("sealed") == []
    assert caplog.text.count("e-1") == 1


def test_an_episode_at_its_capacity_is_over_the_store_is_not_full(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 16)
    desk.recorder.turn()
    writer = desk.recorder._live["e-1"].writer
    writer._taken = writer._block_start = CAPACITY
    desk.push(Step("e-1", CAPACITY, step(16, SPEC)))
    desk.recorder.turn()
    (failed,) = desk.of("failed")
    assert (failed["code"], failed["length"]) == ("episode-sealed", 16)
    desk.check("e-1", 16)


def test_an_episode_that_the_disk_refused_to_seal_is_sealed_when_it_takes_it(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 16)
    desk.recorder.turn()
    desk.push(End("e-1"))
    with files_of_at_most(10):
        desk.recorder.turn()
        (failed,) = desk.of("failed")
        assert (failed["code"], failed["length"]) == ("store-full", 16)
        desk.now_s += 11
        desk.recorder.turn()
    assert not desk.store.episodes()[0].sealed
    desk.recorder.turn()
    assert not desk.store.episodes()[0].sealed, "not tried at every turn"
    desk.now_s += 11
    desk.recorder.turn()
    assert desk.store.episodes()[0].sealed
    desk.check("e-1", 16)


def test_full_disk_fails_the_episode_keeps_what_is_durable_and_recovers(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 20)
    desk.recorder.turn()
    desk.free_bytes = 0
    desk.steps("e-1", 20, 40)
    desk.recorder.turn()
    (failed,) = [m for m in desk.of("failed") if m["code"] == "store-full"]
    assert failed["episode"] == "e-1"
    assert failed["length"] >= 16
    desk.check("e-1", failed["length"])
    assert desk.memory.used == 0
    desk.push(Begin("e-2", SPEC, {}))
    desk.recorder.turn()
    assert desk.of("failed")[-1]["episode"] == "e-2"
    desk.free_bytes = 1 << 40
    desk.push(Begin("e-3", SPEC, {}))
    desk.steps("e-3", 0, 5)
    desk.push(End("e-3"))
    desk.recorder.turn()
    desk.check("e-3", 5)


def test_a_step_that_went_missing_is_not_papered_over(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 3)
    desk.steps("e-1", 4, 5)
    desk.recorder.turn()
    (failed,) = desk.of("failed")
    assert "step 4 came where step 3 was due" in failed["message"]
    desk.check("e-1", 3)


def test_closing_seals_what_is_open(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}))
    desk.steps("e-1", 0, 5)
    desk.recorder.turn()
    desk.recorder.close()
    assert desk.of("sealed")[0]["reason"] == "closed"
    desk.check("e-1", 5)


def test_an_empty_episode_leaves_nothing(desk: Desk) -> None:
    desk.push(Begin("e-1", SPEC, {}), End("e-1"))
    desk.recorder.turn()
    assert desk.of("sealed")[0]["length"] == 0
    assert PlayStore.reader(desk.root).episodes() == []
