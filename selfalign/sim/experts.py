"""A scripted expert: it sees the true cube positions and solves every task on every arm.

It steers the tool tip through a few way points; the phase follows from where tool and cube are, so
that the expert is a function of the present alone and recovers from any disturbance. It plans for
many scenes at once, since stage 1 asks it about every recorded frame.

Shape key: m scenes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfalign.sim.action_spaces import MOTION_STEP_M
from selfalign.sim.env import SimEnv
from selfalign.sim.motion import Command
from selfalign.sim.scene import OPENING_MAX_M
from selfalign.sim.tasks import reach_point

Floats = NDArray[np.floating[Any]]

_TRAVEL_HEIGHT_M = 0.13
_GRASP_HEIGHT_M = 0.02
_PUSH_HEIGHT_M = 0.022
_BEHIND_M = 0.065
_PUSH_STEP_M = 0.02
_CLOSED_M = 0.0
_HOLDS_M = 0.068
"""A gripper that is closing on a cube and narrower than this holds it."""


def scripted_expert(env: SimEnv) -> Command:
    """Return the command that brings the environment's task nearer to success."""
    measured, cube = env.measure(), env.cube(env.colour)
    opening_now = measured.opening[None]
    goal, opening = expert_goal(env.task.name, measured.tool[None], cube[None], opening_now)
    return env.command(towards(measured.tool, goal[0]), float(opening[0]))


def expert_goal(
    task: str, tool: Floats, cube: Floats, opening: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the expert of a task wants the tool tip [m, 3] and how far open the gripper [m].

    Args:
        task: name of the task.
        tool: tool tips [m, 3] in the world, in metres.
        cube: centres of the named cubes [m, 3].
        opening: measured gaps between the fingers [m], in metres.
    """
    if task == "reach":
        return reach_point(cube), np.full(len(tool), OPENING_MAX_M)
    return _lift(tool, cube, opening) if task == "lift" else _push(tool, cube)


def towards(tool: Floats, goal: Floats, step_m: float = MOTION_STEP_M) -> NDArray[np.float64]:
    """Return the points [..., 3] at most `step_m` from `tool` on the way to `goal`."""
    shift = np.asarray(goal - tool, np.float64)
    length = np.linalg.norm(shift, axis=-1, keepdims=True).clip(1e-9)
    return tool + shift * np.minimum(1.0, step_m / length)


def grasps(tool: Floats, cube: Floats) -> NDArray[np.bool_]:
    """Whether closing the gripper now would close it on the cube [m]."""
    offset = tool - cube
    return (np.linalg.norm(offset[:, :2], axis=1) < 0.015) & (offset[:, 2] < 0.012)


def pushes(tool: Floats, cube: Floats) -> NDArray[np.bool_]:
    """Whether the tool is low behind the cube, so that moving forward pushes it [m]."""
    is_behind = (tool[:, 0] < cube[:, 0] - 0.015) & (np.abs(tool[:, 1] - cube[:, 1]) < 0.02)
    return is_behind & (tool[:, 2] < _PUSH_HEIGHT_M + 0.012)


def _lift(
    tool: Floats, cube: Floats, opening: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    aside = np.linalg.norm((tool - cube)[:, :2], axis=1)
    grasp = grasps(tool, cube)
    near = (aside < 0.03) & (tool[:, 2] > _TRAVEL_HEIGHT_M - 0.04)
    goal = _first(
        [
            (grasp & (opening < _HOLDS_M), tool + np.array([0.0, 0.0, 0.1])),
            (grasp, tool),
            (aside < 0.012, _at(cube, _GRASP_HEIGHT_M)),
            (near, _at(cube, tool[:, 2] - 0.01)),
        ],
        _travel(tool, cube),
    )
    return goal, np.where(grasp, _CLOSED_M, OPENING_MAX_M)


def _push(tool: Floats, cube: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    behind = cube - np.array([_BEHIND_M, 0.0, 0.0])
    forward = np.stack([tool[:, 0] + _PUSH_STEP_M, cube[:, 1]], axis=1)
    is_there = np.linalg.norm((tool - behind)[:, :2], axis=1) < 0.015
    goal = _first(
        [
            (pushes(tool, cube), _at(forward, _PUSH_HEIGHT_M)),
            (is_there, _at(behind, _PUSH_HEIGHT_M)),
        ],
        _travel(tool, behind),
    )
    return goal, np.full(len(tool), _CLOSED_M)


def _travel(tool: Floats, spot: Floats) -> NDArray[np.float64]:
    """Go to above `spot` [m, 2 or 3], rising first when low."""
    is_low = tool[:, 2] < _TRAVEL_HEIGHT_M - 0.03
    return _at(np.where(is_low[:, None], tool[:, :2], spot[:, :2]), _TRAVEL_HEIGHT_M)


def _at(spot: Floats, height: Floats | float) -> NDArray[np.float64]:
    """The points [m, 3] at a height over `spot` [m, 2 or 3]."""
    return np.column_stack([spot[:, :2], np.broadcast_to(height, len(spot))])


def _first(cases: list[tuple[NDArray[np.bool_], Floats]], otherwise: Floats) -> NDArray[np.float64]:
    """The goal [m, 3] of the first case that holds."""
    return np.select([case[:, None] for case, _ in cases], [goal for _, goal in cases], otherwise)
