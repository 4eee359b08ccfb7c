"""A whole server in the test's own process: real registry and routes, a fake policy."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.testclient import TestClient

from selfalign.data.spec import Camera, Dimension, RobotSpec
from selfalign.model.checkpoint import make_dummy_policy
from server.app import create_app
from server.runtime import Runtime
from server.settings import Settings
from server.wire.codec import MSGPACK_MEDIA_TYPE, pack, unpack
from tests.fakes.robot_policy import FakeRobotPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 8


def arm_spec(name: str = "arm", **changes: Any) -> RobotSpec:
    """A robot of two cameras, three state numbers and two actions."""
    spec = RobotSpec(
        name=name,
        rate_hz=20.0,
        cameras=(
            Camera(name="front", height=SIZE, width=SIZE),
            Camera(name="wrist", height=SIZE, width=2 * SIZE),
        ),
        state=tuple(Dimension(name=f"q{i}", unit="rad", low=-2.0, high=2.0) for i in range(3)),
        action=(
            Dimension(name="dx", unit="m", low=-1.0, high=1.0),
            Dimension(name="grip", unit="m", low=0.0, high=0.5),
        ),
        default_instruction="wave",
    )
    return RobotSpec.from_mapping({**spec.model_dump(), **changes})


def observation(**changes: Any) -> dict[str, Any]:
    """The body of a good `/act` request for `arm_spec`."""
    body: dict[str, Any] = {
        "images": {
            "front": np.full((SIZE, SIZE, 3), 7, np.uint8),
            "wrist": np.zeros((SIZE, 2 * SIZE, 3), np.uint8),
        },
        "state": np.array([0.1, 0.2, 0.3], np.float32),
    }
    return {**body, **changes}


@cache
def dummy_policy() -> Any:
    """The dummy policy; frozen, so all tests may share it."""
    return make_dummy_policy(0)


def make_runtime(root: Path, *specs: RobotSpec, **settings: Any) -> Runtime:
    """A runtime with its data under `root`, for `arm_spec()` unless other specs are given."""
    paths = []
    for spec in specs or (arm_spec(),):
        path = root / f"{spec.name}.yaml"
        path.write_text(spec.to_yaml())
        paths.append(path)
    chosen = Settings(
        **{
            "specs": tuple(paths),
            "data_dir": root / "data",
            "prestart": False,
            "allowed_hosts": ("testserver",),  # what starlette's TestClient calls a server
            **settings,
        }
    )
    return Runtime(chosen, dummy_policy(), robot_policy=FakeRobotPolicy)


def fake_policy(runtime: Runtime, robot: str = "arm") -> FakeRobotPolicy:
    """The fake policy of a robot of `make_runtime`."""
    policy = runtime.engine.policy(robot)
    assert isinstance(policy, FakeRobotPolicy)
    return policy


@contextmanager
def serving(runtime: Runtime) -> Iterator[TestClient]:
    """A client of the application, from its start to its end."""
    app = create_app(runtime.settings, runtime)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def post_act(client: TestClient, body: Any, **headers: str) -> Any:
    """`POST /act` in msgpack; the response."""
    sent = {"content-type": MSGPACK_MEDIA_TYPE, **headers}
    return client.post("/act", content=pack(body), headers=sent)


def read(response: Any) -> Any:
    """The value in a msgpack response."""
    assert response.status_code == 200, response.text
    return unpack(response.content)
