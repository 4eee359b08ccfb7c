"""Unseen robots are drawn by their seed, and only what the scenario says is unseen."""

import numpy as np
import pytest

from deploy.demo.embodiments import describe_camera, describe_space, draw_embodiment
from selfalign.sim.action_spaces import JointDelta, ToolDelta
from selfalign.sim.cameras import CameraPose


def test_the_same_seed_draws_the_same_robot() -> None:
    one, two = (draw_embodiment("both", seed=3, index=1) for _ in range(2))
    assert one.camera == two.camera
    np.testing.assert_array_equal(one.action_space.rotation, two.action_space.rotation)


def test_every_seed_and_index_draws_another_robot() -> None:
    drawn = [draw_embodiment("both", seed=s, index=i) for s in range(3) for i in range(3)]
    assert len({robot.camera for robot in drawn}) == 9
    assert len({robot.name for robot in drawn}) == 9


def test_every_robot_plays_in_its_own_way_whatever_is_unseen() -> None:
    robots = [draw_embodiment("robot", seed=0, index=i) for i in range(5)]
    assert len({robot.play_seed for robot in robots}) == 5
    assert draw_embodiment("camera", seed=0, index=3).play_seed == robots[3].play_seed


def test_a_scenario_leaves_the_other_part_canonical() -> None:
    action = draw_embodiment("action", seed=0, index=0)
    camera = draw_embodiment("camera", seed=0, index=0)
    both = draw_embodiment("both", seed=0, index=0)
    assert action.camera == CameraPose()
    np.testing.assert_array_equal(camera.action_space.rotation, np.eye(3))
    np.testing.assert_array_equal(both.action_space.rotation, action.action_space.rotation)
    assert both.camera == camera.camera


def test_another_arm_has_the_same_camera_and_space() -> None:
    robot, everything = (draw_embodiment(s, seed=0, index=0) for s in ("robot", "all"))
    both = draw_embodiment("both", seed=0, index=0)
    assert robot.arm.name == everything.arm.name == "ur5e"
    assert robot.camera == CameraPose()
    np.testing.assert_array_equal(robot.action_space.rotation, np.eye(3))
    assert everything.camera == both.camera
    np.testing.assert_array_equal(everything.action_space.rotation, both.action_space.rotation)
    assert robot.describe().startswith("ur5e; ")


def test_a_family_is_what_the_action_space_is_drawn_from() -> None:
    robot = draw_embodiment("both", seed=0, index=0, family="tool_yawed")
    assert robot.camera == draw_embodiment("both", seed=0, index=0).camera
    yawed = robot.action_space
    assert isinstance(yawed, ToolDelta)
    np.testing.assert_allclose(np.abs(yawed.rotation[2]), [0, 0, 1], atol=1e-12)
    joints = draw_embodiment("action", seed=0, index=0, family="joint_permuted").action_space
    assert isinstance(joints, JointDelta)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (ToolDelta(), "tool frame turned 0 deg, x1.00"),
        (ToolDelta(-np.eye(3), 0.7), "tool frame turned 0 deg and mirrored, x0.70"),
        (ToolDelta(np.diag([-1.0, -1.0, 1.0])), "tool frame turned 180 deg, x1.00"),
        (JointDelta(), "JointDelta"),
    ],
)
def test_spaces_in_words(space: object, text: str) -> None:
    assert describe_space(space) == text  # type: ignore[arg-type]


def test_cameras_in_words() -> None:
    assert describe_camera(CameraPose(azimuth_deg=-12.3)) == "camera at -12 deg, 40 deg up, 1.10 m"
