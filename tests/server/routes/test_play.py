"""`/play`: steps in, durable watermark out, and every kind of wrong step."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from selfalign.data.play_store import PlayStore
from server.wire.codec import pack
from server.wire.images import encode_png
from tests.fakes.operated import SPEC, operating, post_play, sent_step, talking
from tests.fakes.play_steps import assert_is_steps
from tests.fakes.running import post_act


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with operating(root) as client:
        yield client


def check(root: Path, episode: str, length: int) -> None:
    reader = PlayStore.reader(root / "data" / "play").open(episode)
    assert reader.length == length
    assert_is_steps(reader.read(0, length), 0, length, SPEC)


def problem(response: Any, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    body = response.json()
    assert body["code"] == code
    detail: str = body["detail"]
    return detail


# POST /play


def test_an_episode_in_one_request(client: TestClient, root: Path) -> None:
    body = post_play(client, 0, 20, end=True).json()
    assert {key: body[key] for key in ("received", "durable", "sealed")} == {
        "received": 20,
        "durable": 20,
        "sealed": True,
    }
    check(root, body["episode"], 20)


def test_an_episode_in_several_requests(client: TestClient, root: Path) -> None:
    first = post_play(client, 0, 3).json()
    assert (first["received"], first["sealed"]) == (3, False)
    second = post_play(client, 3, 5, episode=first["episode"]).json()
    assert second["received"] == 5
    synced = post_play(client, 0, 0, episode=first["episode"]).json()
    assert (synced["received"], synced["durable"]) == (5, 5)
    ended = post_play(client, 0, 0, episode=first["episode"], end=True).json()
    assert (ended["durable"], ended["sealed"]) == (5, True)
    check(root, first["episode"], 5)
    detail = problem(post_play(client, 5, 6, episode=first["episode"]), 409, "episode-sealed")
    assert "sealed at 5 steps" in detail


def test_json_and_encoded_images_are_as_good(client: TestClient, root: Path) -> None:
    steps = []
    for index in range(2):
        one = sent_step(index)
        images = {
            name: base64.b64encode(encode_png(image)).decode()
            for name, image in one["images"].items()
        }
        numbers = {key: one[key].tolist() for key in ("state", "action")}
        steps.append({**one, **numbers, "images": images})
    body = client.post("/play", json={"robot": SPEC.name, "steps": steps, "end": True}).json()
    check(root, body["episode"], 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": np.array([np.nan, 0, 0], np.float32)}, "finite"),
        ({"state": np.zeros(2, np.float32)}, "state"),
        ({"action": np.zeros(3, np.float32)}, "action"),
        ({"action": np.array([np.inf, 0], np.float32)}, "finite"),
        ({"action": np.array([500, 0], np.float32)}, "unit"),
        ({"images": {"front": np.zeros((6, 8, 3), np.uint8)}}, "wrist"),
        ({"images": {"front": b"\xff\xd8\xff", "wrist": b""}}, "front"),
        ({"t_ns": 5}, "t_ns"),
        ({"t_ns": -1}, "t_ns"),
        ({"velocity": 1}, "velocity"),
    ],
)
def test_a_wrong_step_is_named_and_none_is_taken(
    client: TestClient, changes: dict[str, Any], words: str
) -> None:
    steps = [sent_step(0), sent_step(1, **changes)]
    content = pack({"steps": steps})
    headers = {"content-type": "application/msgpack"}
    detail = problem(client.post("/play", content=content, headers=headers), 422, "bad-play-step")
    assert words in detail
    assert "1" in detail
    assert not [e for e in client.get("/play").json()["episodes"] if not e["sealed"]]


def test_what_does_not_exist_is_said(client: TestClient) -> None:
    problem(post_play(client, 0, 1, robot="nope"), 404, "unknown-robot")
    problem(post_play(client, 0, 1, episode="nope"), 404, "unknown-episode")


def test_wrong_bodies_are_refused(client: TestClient) -> None:
    problem(client.post("/play", content=b"x"), 415, "unsupported-media-type")
    headers = {"content-type": "application/msgpack"}
    problem(client.post("/play", content=b"\xc1", headers=headers), 400, "bad-message")


def test_episodes_are_listed_with_the_room_left(client: TestClient) -> None:
    episode = post_play(client, 0, 4, end=True).json()["episode"]
    listed = client.get("/play").json()
    (found,) = [item for item in listed["episodes"] if item["id"] == episode]
    assert (found["robot"], found["length"], found["sealed"]) == (SPEC.name, 4, True)
    assert found["bytes"] > 0
    assert listed["free_bytes"] > 0
    assert listed["quota_bytes"] == 1 << 30


# WS /play


def test_stream_of_play(client: TestClient, root: Path) -> None:
    with talking(client) as talk:
        episode = talk.start(meta={"operator": "me"})
        for index in range(40):
            talk.step(index)
        talk.send(type="sync")
        while (ack := talk.receive())["durable"] < 40:
            assert ack["type"] == "ack"
        assert (ack["received"], ack["episode"]) == (40, episode)
        talk.send(type="end")
        assert talk.until("sealed")["length"] == 40
        again = talk.start()
        assert again > episode
        talk.send(type="end")
        talk.until("sealed")
    check(root, episode, 40)


def test_blocks_are_acknowledged_without_being_asked(client: TestClient) -> None:
    with talking(client) as talk:
        talk.start()
        for index in range(40):
            talk.step(index)
        ack = talk.receive()
        while ack["durable"] < 32:
            ack = talk.receive()
        assert ack["received"] >= 32


def test_stream_in_json(client: TestClient, root: Path) -> None:
    with client.websocket_connect("/play") as socket:
        socket.send_json({"type": "start"})
        episode = socket.receive_json()["episode"]
        one = sent_step(0)
        images = {k: base64.b64encode(encode_png(v)).decode() for k, v in one["images"].items()}
        numbers = {key: one[key].tolist() for key in ("state", "action")}
        socket.send_json({"type": "step", **one, **numbers, "images": images})
        socket.send_json({"type": "end"})
        while (message := socket.receive_json())["type"] == "ack":
            pass
        assert message == {"type": "sealed", "episode": episode, "length": 1}
    check(root, episode, 1)


def test_a_wrong_step_leaves_the_connection_open(client: TestClient, root: Path) -> None:
    with talking(client) as talk:
        episode = talk.start()
        talk.step(0)
        talk.step(1, state=np.zeros(9, np.float32))
        error = talk.until("error")
        assert error["problem"]["code"] == "bad-play-step"
        assert "state" in error["problem"]["detail"]
        talk.step(1)
        talk.send(type="end")
        assert talk.until("sealed")["length"] == 2
    check(root, episode, 2)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "step"}, "bad-play-step"),
        ({"type": "what"}, "bad-play-step"),
        ({"type": "end"}, "bad-message"),
        ({"type": "sync"}, "bad-message"),
        ({"type": "start", "robot": "nope"}, "unknown-robot"),
    ],
)
def test_wrong_messages_are_answered(
    client: TestClient, message: dict[str, Any], code: str
) -> None:
    with talking(client) as talk:
        talk.send(**message)
        assert talk.receive()["problem"]["code"] == code
        talk.start()


def test_a_frame_that_is_no_message_is_answered(client: TestClient) -> None:
    with talking(client) as talk:
        talk.socket.send_bytes(b"\xc1")
        assert talk.receive()["problem"]["code"] == "bad-message"


def test_second_client_of_a_robot_is_told_who_records(client: TestClient) -> None:
    with talking(client) as first, talking(client) as second:
        episode = first.start()
        second.send(type="start")
        found = second.receive()["problem"]
        assert (found["code"], found["status"]) == ("play-busy", 409)
        assert episode in found["detail"]
        first.send(type="end")
        first.until("sealed")
        second.start()


def test_a_client_that_vanishes_seals_its_episode(client: TestClient, root: Path) -> None:
    with talking(client) as talk:
        episode = talk.start()
        talk.step(0)
        talk.send(type="sync")
        talk.until("ack")
    # The robot is free at once.
    with talking(client) as talk:
        talk.start()
        talk.send(type="end")
        talk.until("sealed")
    assert PlayStore.reader(root / "data" / "play").open(episode).sealed


def test_a_silent_client_is_told_and_let_go(tmp_path: Path) -> None:
    with operating(tmp_path, idle_s=0.2) as client, talking(client) as talk:
        talk.start()
        talk.step(0)
        while (message := talk.receive())["type"] != "error":
            assert message["type"] in ("ack", "sealed")
        assert "no message for 0.2 s" in message["problem"]["detail"]
        with pytest.raises(WebSocketDisconnect) as caught:
            talk.receive()
        assert caught.value.code == 4408


def test_full_store_is_a_507_while_act_goes_on(tmp_path: Path) -> None:
    with operating(tmp_path, quota_bytes=1) as client:
        problem(post_play(client, 0, 1), 507, "store-full")
        with talking(client) as talk:
            talk.send(type="start")
            assert talk.receive()["problem"]["code"] == "store-full"
        one = sent_step(0)
        answer = post_act(client, {"images": one["images"], "state": one["state"]})
        assert answer.status_code == 200
