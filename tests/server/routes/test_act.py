from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from server.wire.arrays import json_numpy
from server.wire.codec import dump_json, load_json, pack, unpack
from server.wire.images import encode_jpeg, encode_png
from server.wire.messages import ActReply
from tests.fakes.running import (
    arm_spec,
    fake_policy,
    make_runtime,
    observation,
    post_act,
    read,
    serving,
)

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.testclient import TestClient

    from server.runtime import Runtime

STAGES = ("queue", "encode", "inference", "safety", "total")


def test_msgpack_in_msgpack_out(client: TestClient, runtime: Runtime) -> None:
    response = post_act(client, observation(observed_at_s=12.5, observation_seq=4))

    reply = read(response)
    active = runtime.registry.active("arm")
    assert response.headers["content-type"] == "application/msgpack"
    assert reply["actions"].dtype == np.float32
    assert reply["actions"].shape == (4, 2)
    assert (reply["robot"], reply["w_version"], reply["w_sha256"]) == ("arm", 0, active.sha256)
    assert reply["base_sha256"] == runtime.policy.base_sha256
    assert reply["dt_s"] == pytest.approx(0.05)
    assert (reply["observed_at_s"], reply["observation_seq"]) == (12.5, 4)
    *stages, total_ms = (reply["timing"][f"{name}_ms"] for name in STAGES)
    assert len(reply["timing"]) == len(STAGES)
    assert min(stages) >= 0
    assert sum(stages) <= total_ms
    ActReply.model_validate(reply)


def test_json_in_json_out_with_every_form_of_image(client: TestClient, runtime: Runtime) -> None:
    front, wrist = observation()["images"].values()
    forms = [
        {"front": json_numpy(front), "wrist": json_numpy(wrist)},
        {
            "front": base64.b64encode(encode_png(front)).decode(),
            "wrist": base64.b64encode(encode_jpeg(wrist)).decode(),
        },
    ]
    for images in forms:
        response = client.post("/act", json={"images": images, "state": [0.1, 0.2, 0.3]})

        reply = response.json()
        assert response.headers["content-type"] == "application/json"
        assert len(reply["actions"]) == 4
        assert "observed_at_s" not in reply
        ActReply.model_validate(reply)
    for seen in fake_policy(runtime).seen[-2:]:
        assert np.array_equal(seen.images["front"], front)
        assert seen.images["wrist"].shape == wrist.shape
        assert seen.state.tolist() == [np.float32(0.1), np.float32(0.2), np.float32(0.3)]


def test_the_reply_format_can_be_asked_for(client: TestClient) -> None:
    assert post_act(client, observation(), accept="application/json").json()["w_version"] == 0
    wanted = post_act(client, observation(), accept="text/html, application/msgpack;q=0.9")
    assert read(wanted)["w_version"] == 0
    for anything in ("*/*", ""):
        assert read(post_act(client, observation(), accept=anything))["w_version"] == 0
    refused = post_act(client, observation(), accept="text/html")
    assert (refused.status_code, refused.json()["code"]) == (406, "not-acceptable")


def test_the_instruction_defaults_to_that_of_the_spec(client: TestClient, runtime: Runtime) -> None:
    post_act(client, observation())
    post_act(client, observation(instruction=""))
    post_act(client, observation(instruction="jump"))

    seen = [item.instruction for item in fake_policy(runtime).seen[-3:]]
    assert seen == ["wave", "", "jump"]


def test_the_robot_is_chosen_by_body_or_query(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path, arm_spec(), arm_spec("leg"))
    with serving(runtime) as client:
        assert read(post_act(client, observation()))["robot"] == "arm"
        assert read(post_act(client, observation(robot="leg")))["robot"] == "leg"
        by_query = client.post(
            "/act?robot=leg",
            content=pack(observation()),
            headers={"content-type": "application/x-msgpack"},
        )
        assert unpack(by_query.content)["robot"] == "leg"


def test_a_pinned_version_is_answered_or_refused(client: TestClient) -> None:
    assert read(post_act(client, observation(w_version=0)))["w_version"] == 0
    refused = post_act(client, observation(w_version=5))
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown-version")


def test_an_action_beyond_its_limit_is_clamped_and_named(
    client: TestClient, runtime: Runtime
) -> None:
    fake_policy(runtime).chunk = np.array([[3.0, 0.1]], np.float32)

    reply = read(post_act(client, observation()))

    assert reply["actions"][0, 0] == 1.0
    assert reply["clamped_dims"] == ["dx"]


def test_an_openvla_client_gets_one_action_as_json_numpy(client: TestClient) -> None:
    front, wrist = observation()["images"].values()
    body = {"image": front, "wrist_image": wrist, "state": [0, 0, 0], "instruction": "go"}

    response = client.post(
        "/act", content=dump_json(body), headers={"content-type": "application/json"}
    )

    assert set(response.json()) == {"__numpy__", "dtype", "shape"}
    assert load_json(response.content).shape == (2,)
    assert read(post_act(client, body)).shape == (2,)


def test_an_oft_client_gets_a_list_of_actions(client: TestClient) -> None:
    front, wrist = observation()["images"].values()
    body = {"full_image": front, "left_wrist_image": wrist, "state": np.zeros(3)}

    response = client.post(
        "/act", content=dump_json(body), headers={"content-type": "application/json"}
    )

    actions = load_json(response.content)
    assert len(actions) == 4
    assert all(action.shape == (2,) for action in actions)


def test_an_xvla_client_gets_nested_lists(client: TestClient) -> None:
    front, wrist = observation()["images"].values()
    body = {
        "image0": dump_json(front).decode(),
        "image1": dump_json(np.frombuffer(encode_png(wrist), np.uint8)).decode(),
        "proprio": dump_json(np.zeros(3)).decode(),
        "language_instruction": "go",
    }

    reply = client.post("/act", json=body).json()

    assert np.asarray(reply["action"]).shape == (4, 2)


def test_a_stream_starts_with_the_info_and_answers_in_the_format_of_the_question(
    client: TestClient,
) -> None:
    with client.websocket_connect("/act/stream") as socket:
        assert unpack(socket.receive_bytes())["default_robot"] == "arm"
        socket.send_bytes(pack(observation(observation_seq=1)))
        assert unpack(socket.receive_bytes())["observation_seq"] == 1
        socket.send_text(dump_json(observation(observation_seq=2)).decode())
        reply = json.loads(socket.receive_text())
        assert (reply["observation_seq"], len(reply["actions"])) == (2, 4)


def test_an_error_on_a_stream_is_answered_and_the_connection_stays(client: TestClient) -> None:
    with client.websocket_connect("/act/stream") as socket:
        socket.receive_bytes()
        socket.send_bytes(b"\xc1")
        assert unpack(socket.receive_bytes())["error"]["code"] == "bad-message"
        socket.send_text("{")
        assert json.loads(socket.receive_text())["error"]["status"] == 400
        socket.send_bytes(pack(observation()))
        assert unpack(socket.receive_bytes())["w_version"] == 0


def test_a_failure_on_a_stream_shows_no_traceback(
    client: TestClient, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    fake_policy(runtime).error = RuntimeError("secret path /home/me")
    with client.websocket_connect("/act/stream") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack(observation()))
        error = unpack(socket.receive_bytes())["error"]

    assert error["code"] == "internal-error"
    assert "secret" not in json.dumps(error)
    assert "secret" in caplog.text


def test_a_stream_can_speak_for_one_robot(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path, arm_spec(), arm_spec("leg"))
    with (
        serving(runtime) as client,
        client.websocket_connect("/act/stream?robot=leg") as socket,
    ):
        socket.receive_bytes()
        socket.send_bytes(pack(observation()))
        assert unpack(socket.receive_bytes())["robot"] == "leg"


def test_requests_are_counted_by_status_and_transport(client: TestClient, runtime: Runtime) -> None:
    post_act(client, observation())
    post_act(client, observation(state=[1, 2]))
    with client.websocket_connect("/act/stream") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack(observation()))
        socket.receive_bytes()

    def count(code: str, transport: str) -> float | None:
        labels = {"code": code, "transport": transport}
        registry = runtime.metrics.registry
        return registry.get_sample_value("selfalign_act_requests_total", labels)

    assert count("200", "http") == 1
    assert count("422", "http") == 1
    assert count("200", "websocket") == 1
    for stage in STAGES:
        name = "selfalign_act_latency_seconds_count"
        assert runtime.metrics.registry.get_sample_value(name, {"stage": stage}) == 2
