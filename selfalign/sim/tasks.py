"""The tasks: what is asked for, how long it may take, and when it counts as done.

    reach   50 steps   tool tip within 3 cm of the point 3 cm above the centre of the cube's top
    push    80 steps   the cube has moved at least 5 cm forward (world +x) since the reset
    lift    80 steps   the cube's centre is at least 6 cm above where it lay on the table

The cube is the one the instruction names. Success is checked at the end of a control step and ends
the episode. Aimless play meets the criterion of reach in about 14 % of episodes, of push in 2 % and
of lift in 1 % (Panda, 100 episodes each): a policy must be compared with that, not with zero.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from selfalign.errors import SelfAlignError
from selfalign.sim.scene import CUBE_EDGE_M

REACH_ABOVE_TOP_M = 0.03
REACH_WITHIN_M = 0.03
PUSH_FORWARD_M = 0.05
LIFT_M = 0.06


class UnknownTask(SelfAlignError):
    """There is no task of that name."""


@final
@dataclass(frozen=True)
class Task:
    """A task; `template` is the instruction with `{colour}` in it."""

    name: str
    template: str
    step_limit: int

    def instruction(self, colour: str) -> str:
        """What the robot is asked to do, in words."""
        return self.template.format(colour=colour)


TASKS = {
    task.name: task
    for task in (
        Task("reach", "touch the {colour} cube", 50),
        Task("push", "push the {colour} cube forward", 80),
        Task("lift", "lift the {colour} cube", 80),
    )
}


def get_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        UnknownTask: for a name that is not in `TASKS`.
    """
    if name not in TASKS:
        raise UnknownTask(f"no task is called {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]


def reach_point(cube: np.ndarray) -> np.ndarray:
    """Return the point [3] that `reach` asks for, given the cube's centre [3]."""
    return cube + np.array([0.0, 0.0, CUBE_EDGE_M / 2 + REACH_ABOVE_TOP_M])


def is_done(task: Task, *, tool: np.ndarray, cube: np.ndarray, cube_start: np.ndarray) -> bool:
    """Whether the task is done; all arguments [3] in the world [m]."""
    if task.name == "reach":
        return bool(np.linalg.norm(tool - reach_point(cube)) < REACH_WITHIN_M)
    if task.name == "push":
        return bool(cube[0] - cube_start[0] >= PUSH_FORWARD_M)
    return bool(cube[2] - cube_start[2] >= LIFT_M)
