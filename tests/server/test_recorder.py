"""The recorder: from the ring to the store, whatever dies when. Driven step by step, no process."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfalign.data.episode_layout import CAPACITY
from selfalign.data.play_store import PlayStore
from server.play_records import Begin, End, Flush, Step, decode, encode
from server.recorder import Recorder
from server.ring import RingMemory, RingReader, RingWriter
from tests.fakes.play_steps import assert_is_steps, small_spec, step

SPEC = small_spec()
BLOCK = 16


class Desk:
    """A ring, a store and a recorder; `restart` kills the recorder and starts the next."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.memory = RingMemory.create(1 << 20)
        self.ring = RingWriter(self.memory)
        self.now_s = 0.0
        self.free_bytes = 1 << 40
        self.told: list[dict[str, Any]] = []
        self.store: PlayStore
        self.recorder: Recorder
        self.start()

    def start(self, *resume: str, ended: dict[str, int] | None = None) -> None:
        self.store = PlayStore(
            self.root,
            quota_bytes=1 << 30,
            min_free_bytes=0,
            block_steps=BLOCK,
            disk_free=lambda path: self.free_bytes,
            resume=frozenset(resume),
        )
        self.recorder = Recorder(
            self.store,
            RingReader(self.memory),
            self.told.append,
            flush_s=2.0,
            idle_s=30.0,
            clock=lambda: self.now_s,
        )
        self.recorder.resume(resume, ended)

    def kill(self) -> None:
        """Drop the lock and everything in memory, as the end of a process does."""
        release(self.store)

    def push(self, *entries: Any) -> None:
        for entry in entries:
            self.ring.push(*encode(entry))

    def steps(self, episode: str, start: int, stop: int) -> None:
        self.push(*(Step(episode, index, step(index, SPEC)) for index in range(start, stop)))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.told if message["type"] == kind]

    def durable(self, episode: str) -> int:
        return max(
            (m["episodes"].get(episode, 0) for m in self.of("durable")),
            default=0,
        )

    def check(self, episode: str, length: int) -> None:
        reader = PlayStore.reader(self.root).open(episode)
        assert reader.length == length
        assert_is_steps(reader.read(0, length), 0, length, SPEC)


def release(store: PlayStore) -> None:
    """Give up the store's lock without sealing anything."""
    os.close(store._lock)
    store._lock = -1


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
    (desk.root / "trash").rmdir()
    desk.recorder.close()
    assert "refused" in delete(6, "e-2")["message"]


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
