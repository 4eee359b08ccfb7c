"""The kinematics in numpy is that of MuJoCo, for every kind of arm."""

import numpy as np
import pytest

from selfalign.sim.action_spaces import WORKSPACE_HIGH, WORKSPACE_LOW
from selfalign.sim.batch_kinematics import BatchKinematics
from selfalign.sim.kinematics import Kinematics
from selfalign.sim.robots import make_arm
from selfalign.sim.scene import build_model


@pytest.mark.parametrize("name", ["panda", "ur5e", "procedural-1", "procedural-2", "procedural-5"])
def test_equals_the_kinematics_of_mujoco(name: str) -> None:
    arm, rng = make_arm(name), np.random.default_rng(0)
    slow = Kinematics(arm, build_model(arm, ("front",)))
    fast = BatchKinematics(arm)
    noise = rng.normal(0, 0.2, (20, arm.joint_count))
    joints = np.clip(np.array(arm.posture) + noise, slow.low, slow.high)
    targets = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH, (20, 3))

    positions, rotations = fast.forward(joints)
    solved = fast.inverse(joints, targets)

    for i in range(20):
        position, rotation = slow.forward(joints[i])
        np.testing.assert_allclose(positions[i], position, atol=1e-5)
        np.testing.assert_allclose(rotations[i], rotation, atol=1e-5)
        np.testing.assert_allclose(solved[i], slow.inverse(joints[i], targets[i]), atol=1e-4)
