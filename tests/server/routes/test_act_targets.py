"""A robot with absolute targets: the last command comes with the observation, or is asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from selfalign.align.robot_io import RobotIO
from server.runtime import Runtime
from server.wire.codec import pack, unpack
from tests.fakes.running import (
    arm_spec,
    dummy_policy,
    fake_policy,
    make_runtime,
    observation,
    post_act,
    read,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.testclient import TestClient

    from selfalign.data.spec import RobotSpec

MARKS: dict[str, Any] = {"max_step": (0.25, None), "targets": ("dx",)}
LAST = np.array([0.5, 0.1], np.float32)


def measured_spec() -> RobotSpec:
    """The arm with targets whose second state number measures dx."""
    state = [item.model_dump() for item in arm_spec().state]
    state[1] |= {"name": "dx", "unit": "m"}
    return arm_spec("measured", state=state, **MARKS)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return make_runtime(tmp_path, arm_spec(**MARKS), measured_spec())


@pytest.fixture
def client(runtime: Runtime) -> Iterator[TestClient]:
    with serving(runtime) as client:
        yield client


def foreign(**changes: Any) -> dict[str, Any]:
    body = observation(**changes)
    images = body.pop("images")
    return body | {f"observation/{name}": image for name, image in images.items()}


def test_the_policy_goes_on_from_the_last_command(client: TestClient, runtime: Runtime) -> None:
    assert post_act(client, observation(previous_action=LAST)).status_code == 200
    with client.websocket_connect("/act/stream") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack(observation(previous_action=LAST)))
        assert "actions" in unpack(socket.receive_bytes())
    with client.websocket_connect("/") as socket:
        assert unpack(socket.receive_bytes())["targets"] == ["dx"]
        socket.send_bytes(pack(foreign(previous_action=LAST)))
        assert "actions" in unpack(socket.receive_bytes())
    given = fake_policy(runtime).last_commands
    np.testing.assert_array_equal(given[-3:], [LAST] * 3)


def test_without_it_the_request_is_refused_with_what_to_send(client: TestClient) -> None:
    reply = post_act(client, observation())
    assert (reply.status_code, reply.json()["code"]) == (422, "bad-observation")
    for part in ("previous_action", "dx are targets", "before the first command, the pose"):
        assert part in reply.json()["detail"]
    with client.websocket_connect("/act/stream") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack(observation()))
        assert unpack(socket.receive_bytes())["error"]["code"] == "bad-observation"
        socket.send_bytes(pack(observation(previous_action=LAST)))
        assert "actions" in unpack(socket.receive_bytes())
    with client.websocket_connect("/") as socket:
        socket.receive_bytes()
        socket.send_bytes(pack(foreign()))
        assert "previous_action" in socket.receive_text()


def test_a_measured_target_needs_no_command(client: TestClient, runtime: Runtime) -> None:
    assert post_act(client, observation(robot="measured")).status_code == 200
    held = fake_policy(runtime, "measured").last_commands[-1]
    np.testing.assert_array_equal(held, np.array([0.2, np.nan], np.float32))
    # The first of the chunk is limited from there; of the gripper nobody knows the last command.
    fake_policy(runtime, "measured").chunk = np.array([[1.0, 0.5]], np.float32)
    reply = read(post_act(client, observation(robot="measured")))
    np.testing.assert_allclose(reply["actions"], [[0.45, 0.5]], atol=1e-6)
    assert reply["clamped_dims"] == ["dx"]
    # A command that is sent counts more than what is measured.
    assert post_act(client, observation(robot="measured", previous_action=LAST)).status_code == 200
    np.testing.assert_array_equal(fake_policy(runtime, "measured").last_commands[-1], LAST)


def test_a_chunk_that_is_continued_says_where_a_lagging_arm_was_last_sent(
    client: TestClient, runtime: Runtime
) -> None:
    """Else the rows that are being executed would be slowed down, and the robot pulled back."""
    rest = np.array([[0.7, 0.5], [0.9, 0.5]], np.float32)
    fake_policy(runtime, "measured").chunk = rest
    body = observation(robot="measured", previous_actions=rest, inference_delay=1)
    reply = read(post_act(client, body))
    np.testing.assert_allclose(reply["actions"], rest, atol=1e-6)
    assert reply["clamped_dims"] == []


@pytest.mark.parametrize(
    ("previous", "message"),
    [
        ([0.1], "previous_action must be 2 finite numbers"),
        ([np.nan, 0.0], "previous_action must be 2 finite numbers"),
        ([400.0, 0.0], "previous_action[0] (dx): expected finite number in m near"),
    ],
)
def test_what_is_no_command_is_refused_before_the_policy(
    client: TestClient, runtime: Runtime, previous: list[float], message: str
) -> None:
    seen = len(fake_policy(runtime).seen)
    reply = post_act(client, observation(previous_action=np.array(previous, np.float32)))
    assert (reply.status_code, reply.json()["code"]) == (422, "bad-observation")
    assert message in reply.json()["detail"]
    assert len(fake_policy(runtime).seen) == seen


def test_such_a_robot_is_warmed_up_in_the_middle_of_its_limits(runtime: Runtime) -> None:
    asyncio.run(runtime.engine.warm_up())
    np.testing.assert_allclose(fake_policy(runtime).last_commands, [[0.0, 0.25]])
    asyncio.run(runtime.close())


def test_the_answer_is_absolute_and_goes_on_step_by_step(tmp_path: Path) -> None:
    fake = make_runtime(tmp_path, arm_spec(**MARKS))
    asyncio.run(fake.close())
    runtime = Runtime(fake.settings, dummy_policy(), robot_policy=RobotIO)
    with serving(runtime) as client:
        replies = [
            read(post_act(client, observation(previous_action=np.array([x, 0.1], "<f4"), seed=3)))
            for x in (-0.2, 0.1, 0.99)
        ]
        rest = replies[0]["actions"][1:]
        going_on = observation(
            previous_action=replies[0]["actions"][0],
            previous_actions=rest,
            inference_delay=2,
            seed=4,
        )
        continued = read(post_act(client, going_on))
    first, second, near_limit = (reply["actions"] for reply in replies)
    np.testing.assert_allclose(second[:, 0] - first[:, 0], 0.3, atol=1e-5)
    path = np.concatenate([[-0.2], first[:, 0]])
    assert np.abs(np.diff(path)).max() <= 0.25 + 1e-6
    assert np.abs(np.diff(path)).max() > 1e-4
    assert near_limit[:, 0].max() <= 1.0
    np.testing.assert_allclose(continued["actions"][:2], rest[:2], atol=1e-5)
