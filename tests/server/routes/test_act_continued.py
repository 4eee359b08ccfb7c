"""Real-time chunking over the wire: the rest of the old chunk goes in, or a clear 4xx comes out."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from server.routes.openapi import ACT_CONTINUED_EXAMPLE
from server.wire.codec import pack, unpack
from server.wire.messages import ActRequest
from tests.fakes.running import arm_spec, fake_policy, make_runtime, observation, post_act, serving

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.testclient import TestClient

    from server.runtime import Runtime

OLD = np.array([[0.1, 0.2], [0.2, 0.2], [0.3, 0.1]], np.float32)


def continued(**changes: Any) -> dict[str, Any]:
    return observation(**{"previous_actions": OLD, "inference_delay": 1, **changes})


def test_the_policy_gets_what_is_left_of_the_chunk(client: TestClient, runtime: Runtime) -> None:
    assert post_act(client, continued(execution_horizon=2)).status_code == 200
    (given,) = fake_policy(runtime).continuations[-1:]
    np.testing.assert_array_equal(given.actions, OLD)
    assert (given.delay, given.until) == (1, 2)


@pytest.mark.parametrize(("horizon", "until"), [(None, 3), (3, 3), (50, 3)])
def test_all_rows_count_without_a_horizon_and_no_more_than_there_are_with_a_large_one(
    client: TestClient, runtime: Runtime, horizon: int | None, until: int
) -> None:
    extra = {} if horizon is None else {"execution_horizon": horizon}
    assert post_act(client, continued(**extra)).status_code == 200
    assert fake_policy(runtime).continuations[-1].until == until


def test_without_previous_actions_nothing_is_continued(
    client: TestClient, runtime: Runtime
) -> None:
    assert post_act(client, observation()).status_code == 200
    assert fake_policy(runtime).continuations[-1] is None


def test_the_websocket_and_json_take_it_as_well(client: TestClient, runtime: Runtime) -> None:
    with client.websocket_connect("/act/stream") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack(continued()))
        assert "actions" in unpack(socket.receive_bytes())
    body = continued(previous_actions=OLD.tolist(), state=[0.1, 0.2, 0.3])
    body["images"] = {
        name: {"__numpy__": _base64(image), "dtype": "|u1", "shape": list(image.shape)}
        for name, image in body["images"].items()
    }
    assert client.post("/act", json=body).status_code == 200
    for given in fake_policy(runtime).continuations[-2:]:
        np.testing.assert_array_equal(given.actions, OLD)


def test_an_openpi_observation_may_carry_it(client: TestClient, runtime: Runtime) -> None:
    body = continued()
    images = body.pop("images")
    body |= {f"observation/{name}": image for name, image in images.items()}
    with client.websocket_connect("/") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack(body))
        assert "actions" in unpack(socket.receive_bytes())
    assert fake_policy(runtime).continuations[-1].delay == 1


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"previous_actions": None}, "bad-request", "need previous_actions"),
        (
            {"previous_actions": None, "inference_delay": None, "execution_horizon": 2},
            "bad-request",
            "need previous_actions",
        ),
        ({"inference_delay": None}, "bad-request", "previous_actions need inference_delay"),
        ({"inference_delay": -1}, "bad-request", "greater than or equal to 0"),
        ({"inference_delay": 1.5}, "bad-request", "inference_delay"),
        ({"execution_horizon": 0}, "bad-request", "greater than or equal to 1"),
        ({"previous_actions": [1.0, 2.0]}, "bad-request", "a list of rows of numbers"),
        ({"previous_actions": OLD[:, :1]}, "bad-observation", "1 to 4 rows .* of 2 numbers"),
        ({"previous_actions": OLD[:0]}, "bad-observation", r"shape \[0, 2\]"),
        ({"previous_actions": np.zeros((5, 2), "<f4")}, "bad-observation", r"shape \[5, 2\]"),
        (
            {"previous_actions": OLD + [[0, np.nan]] * 3},
            "bad-observation",
            r"previous_actions\[0\]\[1\] \(grip\): expected finite number in m",
        ),
        ({"previous_actions": OLD * 1000}, "bad-observation", r"near the declared limits"),
        ({"inference_delay": 4}, "bad-observation", "inference_delay: expected 0 to 3 steps"),
        (
            {"previous_actions": np.zeros((4, 2), "<f4"), "inference_delay": 4},
            "bad-observation",
            "fewer than a chunk has",
        ),
        (
            {"inference_delay": 3, "execution_horizon": 2},
            "bad-observation",
            "execution_horizon: expected at least the inference_delay of 3",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_words(
    client: TestClient, changes: dict[str, Any], code: str, message: str
) -> None:
    body = {key: value for key, value in continued(**changes).items() if value is not None}
    reply = post_act(client, body)
    assert (reply.status_code, reply.json()["code"]) == (422, code)
    assert re.search(message, reply.json()["detail"]), reply.json()["detail"]


def test_the_safety_stage_sees_the_answer_as_ever(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path, arm_spec(max_step=(0.5, None)))
    with serving(runtime) as client:
        fake_policy(runtime).chunk = np.array([[0.0, 0.1], [9.0, 0.1], [9.0, 0.1], [9.0, 0.1]])
        reply = unpack(post_act(client, continued(previous_action=[0.0, 0.1])).content)
    assert reply["actions"][:, 0].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert reply["clamped_dims"] == ["dx"]


def test_the_example_in_the_documentation_is_a_good_request() -> None:
    request = ActRequest.model_validate(ACT_CONTINUED_EXAMPLE)
    assert request.previous_actions is not None
    assert request.previous_actions.shape == (2, 4)


def _base64(image: np.ndarray) -> str:
    return base64.b64encode(image.tobytes()).decode()
