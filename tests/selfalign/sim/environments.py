"""One environment an arm for the whole session: opening one compiles a scene and starts OpenGL."""

import pytest

from selfalign.sim import SimulationUnavailable
from selfalign.sim.action_spaces import ToolDelta
from selfalign.sim.cameras import CameraPose
from selfalign.sim.env import SimEnv
from selfalign.sim.robots import make_arm
from selfalign.sim.tasks import get_task

# Between them the procedural arms have 5, 6 and 7 joints.
ARMS = ("panda", "ur5e", "procedural-0", "procedural-3", "procedural-2")
_environments: dict[str, SimEnv] = {}


def open_environment(name: str) -> SimEnv:
    """The session's environment of an arm, with everything a test may change put back."""
    if name not in _environments:
        try:
            _environments[name] = SimEnv(make_arm(name))
        except SimulationUnavailable as error:
            pytest.skip(str(error))
    env = _environments[name]
    env.action_space = ToolDelta()
    env.task = get_task("reach")
    env.set_cameras({"front": CameraPose()})
    env.reset(seed=0)
    return env


def close_environments() -> None:
    while _environments:
        _environments.popitem()[1].close()
