"""A scripted expert: it sees the true cube positions and solves every task on every arm.

It steers the tool tip through a few way points; the phase follows from where tool and cube are, so
that the expert is a function of the present alone and recovers from any disturbance.
"""

import numpy as np

from selfalign.sim.action_spaces import MOTION_STEP_M
from selfalign.sim.env import SimEnv
from selfalign.sim.motion import Command
from selfalign.sim.scene import OPENING_MAX_M
from selfalign.sim.tasks import reach_point

_TRAVEL_HEIGHT_M = 0.13
_GRASP_HEIGHT_M = 0.02
_PUSH_HEIGHT_M = 0.022
_BEHIND_M = 0.065
_PUSH_STEP_M = 0.02
_CLOSED_M = 0.0


def scripted_expert(env: SimEnv) -> Command:
    """Return the command that brings the environment's task nearer to success."""
    tool, cube = env.measure().tool, env.cube(env.colour)
    plan = {"reach": _reach, "push": _push, "lift": _lift}[env.task.name]
    goal, opening = plan(env, tool, cube)
    return env.command(towards(tool, goal), opening)


def towards(tool: np.ndarray, goal: np.ndarray, step_m: float = MOTION_STEP_M) -> np.ndarray:
    """Return the point [3] at most `step_m` from `tool` on the way to `goal`."""
    shift = goal - tool
    return tool + shift * min(1.0, step_m / max(float(np.linalg.norm(shift)), 1e-9))


def _reach(env: SimEnv, tool: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
    del env, tool
    return reach_point(cube), OPENING_MAX_M


def _lift(env: SimEnv, tool: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
    offset = tool - cube
    aside = float(np.linalg.norm(offset[:2]))
    if aside < 0.015 and offset[2] < 0.012:
        opening = float(env.measure().opening)
        if opening < 0.068:
            return tool + np.array([0.0, 0.0, 0.1]), _CLOSED_M
        return tool, _CLOSED_M
    if aside < 0.012:
        return np.array([cube[0], cube[1], _GRASP_HEIGHT_M]), OPENING_MAX_M
    if aside < 0.03 and tool[2] > _TRAVEL_HEIGHT_M - 0.04:
        return np.array([cube[0], cube[1], tool[2] - 0.01]), OPENING_MAX_M
    return _travel(tool, cube[:2]), OPENING_MAX_M


def _push(env: SimEnv, tool: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
    del env
    behind = np.array([cube[0] - _BEHIND_M, cube[1]])
    sideways = abs(tool[1] - cube[1])
    is_behind = tool[0] < cube[0] - 0.015 and sideways < 0.02
    if is_behind and tool[2] < _PUSH_HEIGHT_M + 0.012:
        return np.array([tool[0] + _PUSH_STEP_M, cube[1], _PUSH_HEIGHT_M]), _CLOSED_M
    if np.linalg.norm(tool[:2] - behind) < 0.015:
        return np.array([*behind, _PUSH_HEIGHT_M]), _CLOSED_M
    return _travel(tool, behind), _CLOSED_M


def _travel(tool: np.ndarray, spot: np.ndarray) -> np.ndarray:
    """Go to above `spot` [2], rising first when low."""
    if tool[2] < _TRAVEL_HEIGHT_M - 0.03:
        return np.array([tool[0], tool[1], _TRAVEL_HEIGHT_M])
    return np.array([*spot, _TRAVEL_HEIGHT_M])
