"""Whatever is sent to `/act` and `/robots`: an answer or a problem below 500."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.wire.codec import MSGPACK_MEDIA_TYPE, dump_json, pack, unpack
from tests.fakes.running import SIZE, arm_spec, make_runtime, observation, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.testclient import TestClient

FRONT = observation()["images"]["front"]
WRIST = observation()["images"]["wrist"]
NUMBERS = st.floats(width=32) | st.integers(-(2**63), 2**63)
ARRAYS = st.sampled_from(["|u1", "<f4", "<f8", "<i8", "|b1"]).flatmap(
    lambda kind: hnp.arrays(
        kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=SIZE)
    )
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.binary(max_size=40) | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
IMAGES = st.dictionaries(
    st.sampled_from(["front", "wrist", "roof"]),
    st.sampled_from([FRONT, WRIST]) | ANYTHING,
    max_size=3,
)
STATES = hnp.arrays("<f4", 3, elements=st.floats(width=32)) | ANYTHING
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "images": st.just({"front": FRONT, "wrist": WRIST}) | IMAGES | ANYTHING,
    "state": STATES,
    "robot": st.sampled_from(["arm", "leg"]) | ANYTHING,
    "instruction": st.text() | ANYTHING,
    "w_version": st.integers(-2, 2) | ANYTHING,
    "seed": st.integers(0, 5) | ANYTHING,
    "observed_at_s": st.floats() | ANYTHING,
    "observation_seq": ANYTHING,
    "previous_action": hnp.arrays("<f4", 2) | ANYTHING,
    "previous_actions": hnp.arrays("<f4", (3, 2)) | ANYTHING,
    "inference_delay": st.integers(-1, 5) | ANYTHING,
    "execution_horizon": st.integers(-1, 5) | ANYTHING,
    "image": st.just(FRONT) | ANYTHING,
    "image0": st.just(FRONT) | ANYTHING,
    "full_image": st.just(FRONT) | ANYTHING,
    "wrist_image": st.just(WRIST) | ANYTHING,
    "observation/state": STATES,
    "observation": ANYTHING,
    "proprio": STATES,
    "prompt": ANYTHING,
    "endpoint": st.sampled_from(["infer", "reset"]) | ANYTHING,
    "joint_position": STATES,
    "gripper_position": STATES,
}
BODIES = st.fixed_dictionaries({}, optional=FIELDS) | st.fixed_dictionaries(
    {"images": FIELDS["images"], "state": FIELDS["state"]},
    optional={
        key: FIELDS[key]
        for key in (
            "robot",
            "previous_action",
            "observed_at_s",
            "w_version",
            "previous_actions",
            "inference_delay",
            "execution_horizon",
        )
    },
)
FUZZ = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    runtime = make_runtime(tmp_path_factory.mktemp("fuzz"), arm_spec(max_step=(0.5, None)))
    with serving(runtime) as client:
        yield client


def _has_nan(body: Any) -> bool:
    try:
        dump_json(body)
    except ValueError:
        return True
    return False


@given(body=BODIES)
@FUZZ
def test_no_msgpack_body_makes_the_server_fail(fuzzed: TestClient, body: dict[str, Any]) -> None:
    response = fuzzed.post(
        "/act", content=pack(_small(body)), headers={"content-type": MSGPACK_MEDIA_TYPE}
    )

    assert response.status_code < 500, response.text
    if response.status_code == 200:
        value = unpack(response.content)
        if isinstance(value, dict):
            value = value.get("actions", value.get("action"))
        assert np.isfinite(np.asarray(value)).all()
    else:
        assert response.json()["status"] == response.status_code


@given(body=BODIES)
@FUZZ
def test_no_json_body_makes_the_server_fail(fuzzed: TestClient, body: dict[str, Any]) -> None:
    if _has_nan(body):
        return
    response = fuzzed.post(
        "/act", content=dump_json(body), headers={"content-type": "application/json"}
    )

    assert response.status_code < 500, response.text


@given(body=BODIES)
@settings(FUZZ, max_examples=25)
def test_no_frame_breaks_a_stream(fuzzed: TestClient, body: dict[str, Any]) -> None:
    with fuzzed.websocket_connect("/act/stream") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack(_small(body)))
        answer = unpack(socket.receive_bytes())
        if isinstance(answer, dict) and "error" in answer:
            assert answer["error"]["status"] < 500


@given(body=BODIES)
@settings(FUZZ, max_examples=25)
def test_no_openpi_message_makes_the_server_fail(fuzzed: TestClient, body: dict[str, Any]) -> None:
    with fuzzed.websocket_connect("/") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack(_small(body)))
        answer = socket.receive()
    assert not (answer.get("text") or "").startswith("internal-error"), answer


def _small(value: Any) -> Any:
    """Msgpack holds integers of 64 bits only."""
    if isinstance(value, dict):
        return {key: _small(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_small(item) for item in value]
    if type(value) is int:
        return max(min(value, 2**64 - 1), -(2**63))
    return value


SPECS = (
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["arm", "leg"]) | ANYTHING,
            "rate_hz": NUMBERS | ANYTHING,
            "cameras": st.just(arm_spec().model_dump(mode="json")["cameras"]) | ANYTHING,
            "state": st.just(arm_spec().model_dump(mode="json")["state"]) | ANYTHING,
            "action": st.just(arm_spec().model_dump(mode="json")["action"]) | ANYTHING,
            "max_step": ANYTHING,
            "default_instruction": ANYTHING,
        },
    )
    | ANYTHING
)


@given(body=SPECS)
@settings(FUZZ, max_examples=50)
def test_no_spec_makes_the_server_fail(fuzzed: TestClient, body: Any) -> None:
    response = fuzzed.post(
        "/robots", content=pack(_small(body)), headers={"content-type": MSGPACK_MEDIA_TYPE}
    )

    assert response.status_code < 500, response.text
