"""A simulated arm as a robot of the client library: it observes, applies actions, and holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from client import Observation
from deploy.demo.embodiments import Embodiment
from selfalign.sim.env import SimEnv
from selfalign.sim.play import RandomPlay

CAMERA = "front"


@final
class SimulatedRobot:
    """One embodiment in its scene. A context manager; for one thread.

    Args:
        embodiment: Arm, action space and camera.
        task: What its instructions ask for.
        image_size: Height and width of its images, in pixels.
    """

    def __init__(
        self, embodiment: Embodiment, *, task: str = "reach", image_size: int = 96
    ) -> None:
        self.embodiment = embodiment
        self._env = SimEnv(
            embodiment.arm,
            embodiment.action_space,
            {CAMERA: embodiment.camera},
            task=task,
            image_size=image_size,
        )
        self._observation = self._env.observe()
        self._last_action = self._env.held_action()
        self.is_success = False
        self.is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._env.close()

    @property
    def name(self) -> str:
        """Its name on the server."""
        return self.embodiment.name

    @property
    def period_s(self) -> float:
        """Time between two of its actions [s]."""
        return 1.0 / self._env.rate_hz

    @property
    def spec(self) -> dict[str, Any]:
        """What it declares to the server: cameras, state, actions, limits, rate. No geometry."""
        spec = self._env.spec.model_copy(update={"name": self.name})
        return spec.model_dump(mode="json", exclude_none=True)

    @property
    def image(self) -> NDArray[np.uint8]:
        """What its camera saw last [height, width, 3]."""
        return np.asarray(self._observation.images[CAMERA])

    @property
    def last_action(self) -> NDArray[np.float32]:
        """The last command; at the start of an episode, the one that keeps it where it stands."""
        return self._last_action.astype(np.float32)

    def begin(self, start: int) -> None:
        """Start an episode at the start state of that number; the same number, the same state."""
        self._observation, _ = self._env.reset(seed=start)
        self._last_action = self._env.held_action()
        self.is_success = self.is_over = False

    def observe(self) -> Observation:
        """What it senses now."""
        return {
            "images": self._observation.images,
            "state": self._observation.state,
            "instruction": self._observation.instruction,
        }

    def apply(self, action: NDArray[np.float32]) -> None:
        """Execute one action and look again."""
        self._observation, _, is_done, is_truncated, info = self._env.step(action)
        self._last_action = action
        self.is_success = self.is_success or bool(info["success"])
        self.is_over = is_done or is_truncated

    def hold(self) -> None:
        """Stay where it is for one step."""
        self.apply(self._env.held_action())

    def play(self, steps: int, *, seed: int) -> Iterator[tuple[Observation, NDArray[np.float32]]]:
        """Move about at random: each observation and the action then executed.

        The motion knows no task. It is expressed in the robot's own action space only.
        """
        rng = np.random.default_rng(seed)
        self.begin(int(rng.integers(2**31)))
        motion = RandomPlay(rng)
        for _ in range(steps):
            command = motion.command(self._env)
            action = self._env.action_space.encode(command).astype(np.float32)
            observation = self.observe()
            self.apply(action)
            yield observation, action
