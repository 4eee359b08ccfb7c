"""Kinematic chains without a simulator: plain, redundant and short ones."""

import math

from selfalign.data.kinematic_chain import ChainJoint, KinematicChain


def panda_like() -> KinematicChain:
    """Seven joints with the lengths of a Panda: any pose is reached, with one joint to spare."""
    flip, flop = (1.0, -1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)
    frames = [
        ((0.0, 0.0, 0.333), (1.0, 0.0, 0.0, 0.0), (-2.897, 2.897)),
        ((0.0, 0.0, 0.0), flip, (-1.7627, 1.7627)),
        ((0.0, -0.316, 0.0), flop, (-2.897, 2.897)),
        ((0.0825, 0.0, 0.0), flop, (-3.0717, -0.0698)),
        ((-0.0825, 0.384, 0.0), flip, (-2.897, 2.897)),
        ((0.0, 0.0, 0.0), flop, (-0.0174, 3.7524)),
        ((0.088, 0.0, 0.0), flop, (-2.897, 2.897)),
    ]
    joints = tuple(
        ChainJoint(name=f"joint_{i}", position=p, quaternion=q, low=low, high=high)
        for i, (p, q, (low, high)) in enumerate(frames, start=1)
    )
    return KinematicChain(
        joints=joints,
        tool_position=(0.0, 0.0, 0.237),
        tool_quaternion=(math.cos(math.pi / 8), 0.0, 0.0, -math.sin(math.pi / 8)),
        posture=(0.0, 0.2, 0.0, -2.2, 0.0, 2.4, 0.785),
    )


def planar() -> KinematicChain:
    """Two joints about z with links of 0.3 m and 0.2 m: the textbook arm."""
    return KinematicChain(
        joints=(
            ChainJoint(name="joint_1", position=(0.0, 0.0, 0.1), low=-3.0, high=3.0),
            ChainJoint(name="joint_2", position=(0.3, 0.0, 0.0), low=-3.0, high=3.0),
        ),
        tool_position=(0.2, 0.0, 0.0),
    )
