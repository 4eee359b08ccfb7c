"""The robots that come with the server are the simulated ones, so that play from there fits."""

from __future__ import annotations

import pytest

from selfalign.data.spec import RobotSpec
from server.settings import SHIPPED_SPECS, Settings


def test_the_panda_is_the_default_robot() -> None:
    assert [path.stem for path in Settings().specs] == ["panda", "panda_joints", "ur5e"]


@pytest.mark.parametrize(
    ("name", "arm", "space"),
    [
        ("panda", "panda", "ToolDelta"),
        ("panda_joints", "panda", "JointAbsolute"),
        ("ur5e", "ur5e", "ToolDelta"),
    ],
)
def test_a_shipped_spec_is_that_of_the_simulated_robot(name: str, arm: str, space: str) -> None:
    pytest.importorskip("mujoco")
    from selfalign.sim import action_spaces
    from selfalign.sim.env import SimEnv
    from selfalign.sim.robots import make_arm

    shipped = RobotSpec.from_file(SHIPPED_SPECS / f"{name}.yaml")
    with SimEnv(make_arm(arm), getattr(action_spaces, space)()) as env:
        simulated = env.spec

    # The steps of the shipped robot are the real arm's.
    changes = {
        "name": simulated.name,
        "default_instruction": "",
        "max_step": simulated.max_step,
    }
    assert shipped.name == name
    assert shipped.model_copy(update=changes) == simulated
