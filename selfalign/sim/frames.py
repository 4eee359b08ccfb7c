"""Single random frames with key points, for vision pretraining: kinematics only, no physics."""

from dataclasses import dataclass
from typing import final

import numpy as np

from selfalign.sim.action_spaces import WORKSPACE_HIGH, WORKSPACE_LOW
from selfalign.sim.cameras import CameraSector, SectorWithout, random_camera
from selfalign.sim.env import SimEnv
from selfalign.sim.scene import OPENING_MAX_M

_TOOL_DOWN_SHARE = 0.7
_JOINT_NOISE_RAD = 0.2


@final
@dataclass(frozen=True, eq=False)
class Frame:
    """One image [S, S, 3] uint8 and its key points [K, 3] as (u, v, depth)."""

    image: np.ndarray
    keypoints: np.ndarray
    joints: np.ndarray
    opening: float


def random_frame(
    env: SimEnv,
    rng: np.random.Generator,
    sector: CameraSector | SectorWithout | None = None,
) -> Frame:
    """Draw camera, arm, gripper and cubes at random and render them once.

    Most frames have the gripper pointing down inside the workspace, as in every episode; the rest
    disturb the joints, so that vision sees other poses too. Leaves the environment in that state.
    """
    name = next(iter(env.cameras))
    env.set_cameras({name: random_camera(rng, sector)})
    env.place_cubes(rng)
    target = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH)
    joints = env.kinematics.inverse(env.kinematics.posture, target, iterations=8)
    if rng.random() > _TOOL_DOWN_SHARE:
        joints = joints + rng.normal(0.0, _JOINT_NOISE_RAD, joints.shape)
    opening = float(rng.uniform(0.0, OPENING_MAX_M))
    env.place_arm(np.clip(joints, env.kinematics.low, env.kinematics.high), opening)
    return Frame(env.render(name), env.project_keypoints(name), joints, opening)
