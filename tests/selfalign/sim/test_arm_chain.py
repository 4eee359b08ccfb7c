"""The chain of an arm is the arm that MuJoCo simulates, for every kind of arm."""

import mujoco
import numpy as np
import pytest

from selfalign.data.kinematic_chain import ChainKinematics
from selfalign.sim.action_spaces import WORKSPACE_HIGH, WORKSPACE_LOW
from selfalign.sim.arm_chain import chain_of
from selfalign.sim.kinematics import TOOL_DOWN, Kinematics
from selfalign.sim.robots import make_arm
from selfalign.sim.scene import build_model

# The scene's XML holds six digits of every length and quaternion.
DIGITS = 2e-5


@pytest.mark.parametrize("name", ["panda", "ur5e", "procedural-1", "procedural-2", "procedural-5"])
def test_chain_is_the_arm_that_mujoco_simulates(name):
    arm, rng = make_arm(name), np.random.default_rng(0)
    model = build_model(arm, ("front",))
    slow, fast = Kinematics(arm, model), ChainKinematics(chain_of(arm))
    joints = rng.uniform(slow.low, slow.high, (30, arm.joint_count))
    position, rotation = fast.forward(joints)
    jacobian = fast.jacobian(joints)
    for i in range(30):
        wanted, frame = slow.forward(joints[i])
        np.testing.assert_allclose(position[i], wanted, atol=DIGITS)
        np.testing.assert_allclose(rotation[i], frame, atol=DIGITS)
        np.testing.assert_allclose(jacobian[i], mujoco_jacobian(model, joints[i]), atol=DIGITS)


@pytest.mark.parametrize("name", ["panda", "ur5e", "procedural-1", "procedural-2", "procedural-5"])
def test_inverse_takes_the_steps_of_the_simulators(name):
    arm, rng = make_arm(name), np.random.default_rng(1)
    slow, fast = Kinematics(arm, build_model(arm, ("front",))), ChainKinematics(chain_of(arm))
    noise = rng.normal(0, 0.2, (20, arm.joint_count))
    joints = np.clip(slow.posture + noise, slow.low, slow.high)
    targets = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH, (20, 3))
    solved = fast.inverse(joints, targets, TOOL_DOWN)
    for i in range(20):
        # The inverse stops within 1e-4 of its target: rounding decides who takes one step more.
        np.testing.assert_allclose(solved[i], slow.inverse(joints[i], targets[i]), atol=2e-3)


def mujoco_jacobian(model: mujoco.MjModel, joints: np.ndarray) -> np.ndarray:
    data = mujoco.MjData(model)
    names = [f"joint{i}" for i in range(len(joints))]
    data.qpos[[model.joint(name).qposadr[0] for name in names]] = joints
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    jacobian = np.zeros((6, model.nv))
    site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, "tool")
    mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], site)
    return jacobian[:, [model.joint(name).dofadr[0] for name in names]]
