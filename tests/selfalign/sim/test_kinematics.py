"""Kinematics: the inverse finds what the forward confirms, everywhere in the workspace."""

import numpy as np
import pytest

from selfalign.sim.action_spaces import MOTION_STEP_M, WORKSPACE_HIGH, WORKSPACE_LOW
from selfalign.sim.env import SimEnv
from selfalign.sim.kinematics import TOOL_DOWN, Kinematics, rotation_between
from selfalign.sim.robots import make_arm
from selfalign.sim.scene import build_model

CORNERS = [
    np.where([index >> axis & 1 for axis in range(3)], WORKSPACE_HIGH, WORKSPACE_LOW)
    for index in range(8)
]


def walk(kinematics: Kinematics, joints: np.ndarray, goal: np.ndarray) -> np.ndarray:
    for _ in range(60):
        shift = goal - kinematics.forward(joints)[0]
        distance = float(np.linalg.norm(shift))
        if distance < 1e-4:
            break
        target = goal - shift + shift * min(1.0, MOTION_STEP_M / distance)
        joints = kinematics.inverse(joints, target)
    return joints


def test_every_corner_is_reached_step_by_step(env: SimEnv) -> None:
    joints = env.kinematics.inverse(
        env.kinematics.posture, np.array([0.48, 0.0, 0.2]), iterations=60
    )
    for corner in CORNERS:
        joints = walk(env.kinematics, joints, corner)
        position, rotation = env.kinematics.forward(joints)
        np.testing.assert_allclose(position, corner, atol=1e-3)
        assert np.linalg.norm(rotation_between(rotation, TOOL_DOWN)) < 0.01
        assert (joints >= env.kinematics.low - 1e-9).all()
        assert (joints <= env.kinematics.high + 1e-9).all()


@pytest.mark.parametrize("seed", range(20, 32))
def test_procedural_arms_reach_the_workspace(seed: int) -> None:
    arm = make_arm(f"procedural-{seed}")
    kinematics = Kinematics(arm, build_model(arm, ("front",)))
    for corner in CORNERS:
        joints = kinematics.inverse(kinematics.posture, corner, iterations=80)
        position, rotation = kinematics.forward(joints)
        np.testing.assert_allclose(position, corner, atol=1e-3)
        assert np.linalg.norm(rotation_between(rotation, TOOL_DOWN)) < 0.01


def test_inverse_is_a_function_of_its_arguments(panda: SimEnv) -> None:
    joints, goal = panda.measure().joints, np.array([0.5, 0.1, 0.1])
    first = panda.kinematics.inverse(joints, goal)
    panda.kinematics.inverse(joints, np.array([0.4, -0.2, 0.3]))
    np.testing.assert_array_equal(first, panda.kinematics.inverse(joints, goal))


def test_out_of_reach_stays_finite_and_within_limits(env: SimEnv) -> None:
    joints = env.kinematics.inverse(env.measure().joints, np.array([3.0, 0.0, 3.0]))
    assert np.isfinite(joints).all()
    assert (joints >= env.kinematics.low).all()
    assert (joints <= env.kinematics.high).all()


def test_arm_at_target_does_not_drift(env: SimEnv) -> None:
    measured = env.measure()
    again = env.kinematics.inverse(measured.joints, measured.tool)
    np.testing.assert_allclose(again, measured.joints, atol=2e-3)


def test_rotation_between_is_the_axis_times_the_angle() -> None:
    angle = 0.3
    turned = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    np.testing.assert_allclose(rotation_between(np.eye(3), turned), [0, 0, angle], atol=1e-9)
