"""The openpi protocol, byte for byte. The fixtures were written by openpi-client 0.1.2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import numpy as np
import pytest

from server.wire.codec import pack, unpack
from tests.fakes.running import fake_policy, make_runtime, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.testclient import TestClient

    from server.runtime import Runtime

FIXTURES = Path(__file__).parent / "openpi"
FRONT = (np.arange(8 * 8 * 3) % 251).astype(np.uint8).reshape(8, 8, 3)
WRIST = (np.arange(8 * 16 * 3) % 241).astype(np.uint8).reshape(8, 16, 3)


def fixture_bytes(name: str) -> bytes:
    return (FIXTURES / f"{name}.msgpack").read_bytes()


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return make_runtime(tmp_path)


@pytest.fixture
def client(runtime: Runtime) -> Iterator[TestClient]:
    with serving(runtime) as client:
        yield client


def test_our_bytes_are_openpis_bytes() -> None:
    reply = {
        "actions": np.array([[0.5, 0.25], [-1.0, 0.0]], np.float32),
        "policy_timing": {"infer_ms": 1.5},
        "server_timing": {"infer_ms": 2.0, "prev_total_ms": 2.5},
        "scalar": np.float32(0.5),
    }

    assert pack(reply) == fixture_bytes("reply")


def test_array_markers_have_binary_keys() -> None:
    assert pack({"a": np.zeros(3, np.float32)}).startswith(
        bytes.fromhex("81 a1 61 84 c4 0b") + b"__ndarray__" + bytes.fromhex("c3 c4 04") + b"data"
    )


def test_openpis_bytes_are_read() -> None:
    observation = unpack(fixture_bytes("libero_observation"))

    assert np.array_equal(observation["observation/image"], FRONT)
    assert np.array_equal(observation["observation/wrist_image"], WRIST)
    assert observation["observation/state"].tolist() == [0.25, -0.5, 1.0]
    assert observation["prompt"] == "touch the red cube"


@pytest.mark.parametrize("name", ["libero_observation", "aloha_observation", "droid_observation"])
def test_observations_of_stock_robots_are_answered(
    client: TestClient, runtime: Runtime, name: str
) -> None:
    with client.websocket_connect("/") as socket:
        socket.receive_bytes()
        socket.send_bytes(fixture_bytes(name))
        reply = socket.receive_bytes()

    seen = fake_policy(runtime).seen[-1]
    assert np.array_equal(seen.images["front"], FRONT)
    assert np.array_equal(seen.images["wrist"], WRIST)
    assert seen.state.tolist() == [0.25, -0.5, 1.0]
    assert seen.instruction == "touch the red cube"
    # decoded as openpi-client does it: plain msgpack, markers under binary keys
    raw = msgpack.unpackb(reply)
    assert raw["actions"][b"__ndarray__"] is True
    assert raw["actions"][b"dtype"] == "<f4"
    assert raw["actions"][b"shape"] == [4, 2]
    assert set(raw["policy_timing"]) == {"infer_ms"}


def test_the_first_frame_is_the_metadata(client: TestClient) -> None:
    with client.websocket_connect("/") as socket:
        metadata = msgpack.unpackb(socket.receive_bytes())

    assert metadata["robot"] == "arm"
    assert metadata["cameras"] == ["front", "wrist"]
    assert metadata["action_horizon"] == 4
    # what RoboArena's client reads from it
    for key in (
        "image_resolution",
        "needs_wrist_camera",
        "n_external_cameras",
        "needs_stereo_camera",
        "needs_session_id",
        "action_space",
    ):
        assert key in metadata


def test_the_time_of_the_previous_answer_comes_with_the_next(client: TestClient) -> None:
    with client.websocket_connect("/") as socket:
        socket.receive_bytes()
        socket.send_bytes(fixture_bytes("libero_observation"))
        first = unpack(socket.receive_bytes())["server_timing"]
        socket.send_bytes(fixture_bytes("libero_observation"))
        second = unpack(socket.receive_bytes())["server_timing"]

    assert set(first) == {"infer_ms"}
    assert set(second) == {"infer_ms", "prev_total_ms"}
    assert second["prev_total_ms"] >= first["infer_ms"]


def test_the_reply_names_its_w(client: TestClient, runtime: Runtime) -> None:
    with client.websocket_connect("/") as socket:
        socket.receive_bytes()
        socket.send_bytes(fixture_bytes("libero_observation"))
        reply = unpack(socket.receive_bytes())

    assert reply["w_version"] == 0
    assert reply["w_sha256"] == runtime.registry.active("arm").sha256


def test_reset_is_answered_in_text_and_infer_is_the_default_endpoint(client: TestClient) -> None:
    with client.websocket_connect("/") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack({"endpoint": "reset"}))
        assert socket.receive_text() == "reset successful"
        observation = unpack(fixture_bytes("libero_observation"))
        socket.send_bytes(pack({**observation, "endpoint": "infer", "session_id": "s"}))
        assert unpack(socket.receive_bytes())["actions"].shape == (4, 2)


def _first_error(client: TestClient, frame: bytes | str) -> tuple[str, int]:
    """The text frame that answers a bad frame, and the code of the close after it."""
    with client.websocket_connect("/") as socket:
        socket.receive_bytes()
        if isinstance(frame, str):
            socket.send_text(frame)
        else:
            socket.send_bytes(frame)
        text = socket.receive_text()
        closed = socket.receive()
    assert closed["type"] == "websocket.close"
    return text, closed["code"]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"\xc1", "bad-message"),
        (fixture_bytes("libero_observation")[:100], "not one whole msgpack message"),
        ("text", "expected a binary frame"),
        (pack([1]), "expected a map"),
        (pack({"endpoint": "kill"}), "'kill' is neither infer nor reset"),
        (pack({"prompt": "go"}), "no image for camera 'front'"),
        (pack({"robot": "leg"}), "'leg' is not known"),
        (pack({**unpack(fixture_bytes("libero_observation")), "robot": 3}), "robot"),
    ],
)
def test_an_error_is_one_text_frame_then_close_1011(
    client: TestClient, frame: bytes | str, said: str
) -> None:
    text, code = _first_error(client, frame)

    assert said in text
    assert code == 1011
    assert "Traceback" not in text


def test_a_failure_of_the_server_tells_no_traceback(client: TestClient, runtime: Runtime) -> None:
    fake_policy(runtime).error = RuntimeError("secret path /home/me")

    text, code = _first_error(client, fixture_bytes("libero_observation"))

    assert text.startswith("internal-error: ")
    assert "secret" not in text
    assert code == 1011


def test_an_unknown_robot_in_the_address_is_an_error_too(client: TestClient) -> None:
    with client.websocket_connect("/?robot=leg") as socket:
        assert "'leg' is not known" in socket.receive_text()
        assert socket.receive()["code"] == 1011


def test_plain_http_at_the_same_path_is_the_home_page(client: TestClient) -> None:
    assert "openpi" in client.get("/").text
