"""A small robot and steps of its play whose every number tells which step it is."""

from __future__ import annotations

import numpy as np

from selfalign.data.observation import Observation
from selfalign.data.play_store import EpisodeSlice, PlayStep
from selfalign.data.spec import Camera, Dimension, RobotSpec

PERIOD_NS = 100_000_000


def small_spec(*, name: str = "toy", height: int = 6, width: int = 8) -> RobotSpec:
    """A robot with two tiny cameras, three state numbers and two actions, at 10 Hz."""
    return RobotSpec(
        name=name,
        rate_hz=10,
        cameras=(
            Camera(name="front", height=height, width=width),
            Camera(name="wrist", height=4, width=4),
        ),
        state=tuple(Dimension(name=f"j{i}", unit="rad", low=-3, high=3) for i in range(3)),
        action=tuple(Dimension(name=f"d{i}", unit="m", low=-1, high=1) for i in range(2)),
    )


def step(index: int, spec: RobotSpec) -> PlayStep:
    """Step number `index`. Every fourth front image is black, as from a camera in the dark."""
    shade = {"front": 0 if index % 4 == 0 else 1 + index % 255, "wrist": index % 256}
    images = {
        camera.name: np.full((camera.height, camera.width, 3), shade[camera.name], np.uint8)
        for camera in spec.cameras
    }
    state = np.full(len(spec.state), (index % 1000) / 1000, np.float32)
    action = np.full(len(spec.action), -(index % 1000) / 1000, np.float32)
    instruction = "touch the red cube" if index < 10 else "play"
    return PlayStep(Observation(images, state, instruction), action, (index + 1) * PERIOD_NS)


def assert_is_steps(got: EpisodeSlice, start: int, stop: int, spec: RobotSpec) -> None:
    """Require a slice to hold exactly steps [start, stop)."""
    expected = [step(i, spec) for i in range(start, stop)]
    assert len(got) == stop - start
    assert got.t_ns.tolist() == [s.t_ns for s in expected]
    assert got.instructions == tuple(s.observation.instruction for s in expected)
    for i, one in enumerate(expected):
        for name, image in one.observation.images.items():
            np.testing.assert_array_equal(got.images[name][i], image)
        np.testing.assert_array_equal(got.state[i], one.observation.state)
        np.testing.assert_array_equal(got.action[i], one.action)
