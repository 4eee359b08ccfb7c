"""An arm of the simulator as the kinematic chain that a robot spec declares."""

import numpy as np

from selfalign.data.kinematic_chain import ChainJoint, KinematicChain
from selfalign.data.rotations import matrix_quaternion, quaternion_matrix
from selfalign.sim.arm import Arm
from selfalign.sim.scene import TOOL_LENGTH_M


def chain_of(arm: Arm) -> KinematicChain:
    """The chain from the world to the tool tip; joints are named as in the robot spec's state."""
    base = quaternion_matrix(arm.base_quaternion)
    flange = quaternion_matrix(arm.flange_quaternion)
    joints = []
    for i, link in enumerate(arm.links):
        # The mount of the base is part of the first joint's place: the chain starts in the world.
        mount = base if i == 0 else np.eye(3)
        turned = matrix_quaternion(mount @ quaternion_matrix(link.quaternion))
        joint = {
            "name": f"joint_{i + 1}",
            "position": tuple(mount @ np.array(link.position)),
            "quaternion": tuple(turned),
            "axis": link.axis,
            "low": link.limits[0],
            "high": link.limits[1],
        }
        joints.append(ChainJoint.model_validate(joint))
    tip = np.array(arm.flange_position) + flange @ np.array([0.0, 0.0, TOOL_LENGTH_M])
    return KinematicChain.model_validate(
        {
            "joints": joints,
            "tool_position": tuple(tip),
            "tool_quaternion": arm.flange_quaternion,
            "posture": arm.posture,
        }
    )
