"""Play: smooth random motion over the whole workspace, with the gripper opening and closing.

The same law makes the play of training and of a robot in service. It knows nothing of the cubes;
many of its way points lie low over the table, so that it meets them now and then.
"""

from typing import final

import numpy as np

from selfalign.sim.action_spaces import MOTION_STEP_M, WORKSPACE_HIGH, WORKSPACE_LOW
from selfalign.sim.env import SimEnv
from selfalign.sim.experts import towards
from selfalign.sim.motion import Command
from selfalign.sim.scene import OPENING_MAX_M

_ARRIVED_M = 0.03
_LOW_SHARE = 0.35
_LOW_M = 0.08
_SMOOTHING = 0.5
_JITTER = 0.25
_NEW_OPENING_CHANCE = 0.12
_STEPS_PER_WAYPOINT = 25


@final
class RandomPlay:
    """Chases random way points at random speeds; deterministic given its generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._velocity = np.zeros(3)
        self._opening = float(rng.uniform(0.0, OPENING_MAX_M))
        self._new_waypoint()

    def command(self, env: SimEnv) -> Command:
        """Return the next command for the environment's arm."""
        tool = env.measure().tool
        self._patience -= 1
        if np.linalg.norm(self._waypoint - tool) < _ARRIVED_M or self._patience <= 0:
            self._new_waypoint()
        if self._rng.random() < _NEW_OPENING_CHANCE:
            self._opening = float(np.clip(self._rng.uniform(-0.02, 0.11), 0.0, OPENING_MAX_M))
        wanted = towards(tool, self._waypoint, self._speed) - tool
        wanted += _JITTER * MOTION_STEP_M * self._rng.standard_normal(3)
        self._velocity += _SMOOTHING * (wanted - self._velocity)
        target = towards(tool, tool + self._velocity)
        return env.command(np.clip(target, WORKSPACE_LOW, WORKSPACE_HIGH), self._opening)

    def _new_waypoint(self) -> None:
        self._waypoint = self._rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH)
        if self._rng.random() < _LOW_SHARE:
            self._waypoint[2] = self._rng.uniform(WORKSPACE_LOW[2], _LOW_M)
        self._speed = MOTION_STEP_M * float(self._rng.uniform(0.3, 1.2))
        self._patience = _STEPS_PER_WAYPOINT
