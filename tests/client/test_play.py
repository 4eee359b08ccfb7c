"""Streaming play: acknowledgements, a full window, a broken connection, refusals."""

import threading
from typing import Any

import numpy as np
import pytest
from websockets.sync.server import ServerConnection

from client import Backoff, Endpoint, PlayRecorder, ServerProblem
from server.wire.problems import problem
from tests.fakes.wire_server import receive, send, websocket_server

QUICK = Backoff(first_s=0.01, longest_s=0.02, give_up_after_s=30)


class FakeRecorder:
    """Server side of `/play`; blocks of 4 steps are acknowledged."""

    def __init__(self) -> None:
        self.episodes: list[list[Any]] = []
        self.starts: list[Any] = []
        self.break_after: int | None = None
        self.refuse_step: int | None = None
        self.close_after: int | None = None
        self.acknowledges = True
        self.largest = 2**20

    def talk(self, connection: ServerConnection) -> None:
        steps: list[Any] = []
        while True:
            message = receive(connection)
            kind = message["type"]
            name = f"e{len(self.episodes)}"
            if kind == "start":
                self.starts.append(message)
                self.episodes.append(steps)
                send(connection, {"type": "started", "episode": f"e{len(self.episodes)}"})
            elif kind == "step" and message["images"]["front"].size > self.largest:
                connection.close(1009, "frame exceeds limit")
                return
            elif kind == "step":
                if self.refuse_step == len(steps):
                    self.refuse_step = None
                    body = problem("bad-play-step", "state is NaN").model_dump()
                    send(connection, {"type": "error", "problem": body})
                    continue
                steps.append(message)
                if self.close_after == len(steps):
                    self.close_after = None
                    body = problem("not-ready", "the server is stopping").model_dump()
                    send(connection, {"type": "error", "problem": body})
                    connection.close(1001)
                    return
                if self.break_after == len(steps):
                    self.break_after = None
                    connection.socket.close()
                    return
                if len(steps) % 4 == 0 and self.acknowledges:
                    self._ack(connection, name, steps)
            elif kind == "sync":
                self._ack(connection, name, steps)
            else:
                send(connection, {"type": "sealed", "episode": name, "length": len(steps)})

    def _ack(self, connection: ServerConnection, name: str, steps: list[Any]) -> None:
        n = len(steps)
        send(
            connection,
            {"type": "ack", "episode": name, "received": n, "durable": n // 4 * 4},
        )


def observation(i: int) -> Any:
    return {"images": {"front": np.full((2, 2, 3), i, np.uint8)}, "state": [float(i)]}


def record_until_the_camera_is_lost(recorder: PlayRecorder) -> None:
    with recorder:
        recorder.step(observation(0), [0])
        raise OSError("camera gone")


def numbers(steps: list[Any]) -> list[float]:
    return [float(step["action"][0]) for step in steps]


def test_steps_arrive_in_order_and_the_episode_is_sealed() -> None:
    fake = FakeRecorder()
    with (
        websocket_server(fake.talk) as url,
        PlayRecorder(Endpoint(url), robot="arm", meta={"by": "test"}) as play,
    ):
        for i in range(10):
            play.step(observation(i), [i], t_ns=100 * i)
    assert numbers(fake.episodes[0]) == list(range(10))
    assert [step["t_ns"] for step in fake.episodes[0]] == list(range(0, 1000, 100))
    assert fake.starts == [{"type": "start", "robot": "arm", "meta": {"by": "test"}}]
    (episode,) = play.episodes
    assert (episode.id, episode.received, episode.durable, episode.is_sealed) == (
        "e1",
        10,
        10,
        True,
    )


def test_sync_waits_until_all_is_received_and_says_what_is_durable() -> None:
    fake = FakeRecorder()
    with websocket_server(fake.talk) as url, PlayRecorder(Endpoint(url)) as play:
        for i in range(6):
            play.step(observation(i), [i])
        episode = play.sync()
        assert (episode.received, episode.durable, episode.is_sealed) == (6, 4, False)


def test_time_stamps_are_monotonic_by_default() -> None:
    fake = FakeRecorder()
    with websocket_server(fake.talk) as url, PlayRecorder(Endpoint(url)) as play:
        for i in range(3):
            play.step(observation(i), [i])
        play.sync()
    times = [step["t_ns"] for step in fake.episodes[0]]
    assert times == sorted(times)
    assert times[0] > 0


def test_a_full_window_waits_for_the_server() -> None:
    fake = FakeRecorder()
    fake.acknowledges = False
    with websocket_server(fake.talk) as url, PlayRecorder(Endpoint(url), window=3) as play:
        for i in range(3):
            play.step(observation(i), [i])
        assert play.episodes[0].received == 3


def test_a_broken_connection_continues_in_a_new_episode_without_loss() -> None:
    fake = FakeRecorder()
    fake.break_after = 6
    with websocket_server(fake.talk) as url, PlayRecorder(Endpoint(url, retry=QUICK)) as play:
        for i in range(20):
            play.step(observation(i), [i])
    first, second = (numbers(steps) for steps in fake.episodes)
    assert sorted({*first, *second}) == list(range(20))
    assert second == list(range(int(second[0]), 20)), "consecutive, so its transitions hold"
    assert fake.starts[1]["meta"] == {"continues": "e1"}
    assert [episode.is_sealed for episode in play.episodes] == [False, True]


def test_a_server_that_stops_or_has_sealed_a_silent_episode_is_met_again_with_a_new_one() -> None:
    fake = FakeRecorder()
    fake.close_after = 2
    with (
        websocket_server(fake.talk) as url,
        PlayRecorder(Endpoint(url, retry=QUICK)) as play,
    ):
        for i in range(5):
            play.step(observation(i), [i])
            play.sync()
    assert {*numbers(fake.episodes[0]), *numbers(fake.episodes[1])} == set(range(5))


def test_a_refused_step_is_raised_and_recording_can_go_on() -> None:
    fake = FakeRecorder()
    fake.refuse_step = 2
    with websocket_server(fake.talk) as url, PlayRecorder(Endpoint(url)) as play:
        for i in range(3):
            play.step(observation(i), [i])
        with pytest.raises(ServerProblem, match="state is NaN"):
            play.sync()
        play.step(observation(3), [3])
        assert play.sync().received == 3
    assert numbers(fake.episodes[0]) == [0, 1, 3]


def test_a_step_that_is_too_large_is_given_up_and_recording_can_go_on() -> None:
    fake = FakeRecorder()
    fake.largest = 12
    large: Any = {"images": {"front": np.zeros((3, 3, 3), np.uint8)}, "state": [1.0]}
    with websocket_server(fake.talk) as url, PlayRecorder(Endpoint(url, retry=QUICK)) as play:
        play.step(observation(0), [0])
        play.sync()
        play.step(large, [1])
        with pytest.raises(ServerProblem, match="frame exceeds limit"):
            play.sync()
        play.step(observation(2), [2])
        assert play.end().is_sealed
    assert [numbers(steps) for steps in fake.episodes] == [[0], [2]]


def test_an_exception_of_the_robot_leaves_the_episode_unsealed() -> None:
    fake = FakeRecorder()
    with websocket_server(fake.talk) as url:
        play = PlayRecorder(Endpoint(url))
        with pytest.raises(OSError, match="camera"):
            record_until_the_camera_is_lost(play)
    assert not play.episodes[0].is_sealed


@pytest.mark.parametrize("then", ["step", "sync", "end"])
def test_a_refusal_before_the_end_of_the_connection_is_told(then: str) -> None:
    def talk(connection: ServerConnection) -> None:
        receive(connection)
        send(connection, {"type": "started", "episode": "e1"})
        receive(connection)
        refused = problem("bad-play-step", "state is NaN").model_dump()
        if not gone.is_set():
            send(connection, {"type": "error", "problem": refused})
        connection.close()
        gone.set()

    gone = threading.Event()
    told = pytest.raises(ServerProblem, match="state is NaN")
    with websocket_server(talk) as url, told, PlayRecorder(Endpoint(url)) as play:
        play.step(observation(0), [0])
        assert gone.wait(5)
        play.step(observation(1), [1]) if then == "step" else getattr(play, then)()


def test_ending_twice_is_fine() -> None:
    fake = FakeRecorder()
    with websocket_server(fake.talk) as url, PlayRecorder(Endpoint(url)) as play:
        play.step(observation(0), [0])
        assert play.end() == play.end()


def test_ending_before_the_first_step_leaves_an_empty_episode() -> None:
    with websocket_server(FakeRecorder().talk) as url, PlayRecorder(Endpoint(url)) as play:
        assert play.end().is_sealed
        assert [episode.received for episode in play.episodes] == [0]
