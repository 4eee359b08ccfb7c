"""The engineer's alternative to alignment: camera and kinematics are known, so calculate.

The robot is made to look like the plain one, Panda before the plain camera with plain tool deltas:
its picture is warped as the plain camera would see the plane of the cubes (what stands out of that
plane is bent), and the policy's plain actions are executed through the robot's own action space.

Shape key: S image side.
"""

from dataclasses import dataclass
from typing import Final, Self, final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.observation import Observation
from selfalign.data.spec import Dimension, RobotSpec
from selfalign.experiments.cells import cells_of
from selfalign.experiments.robots import UnseenRobot, draw_robot
from selfalign.sim.action_spaces import ActionSpace, ToolDelta
from selfalign.sim.cameras import CameraPose, project, unproject
from selfalign.sim.env import SimEnv
from selfalign.sim.motion import Command
from selfalign.sim.scene import CUBE_EDGE_M

_PLANE_M: Final = CUBE_EDGE_M / 2
_BEHIND: Final = 127
_SEED: Final = 7_000_009


def plain_robot() -> UnseenRobot:
    """Panda before the plain camera with plain tool deltas, with play of its own."""
    (cell,) = cells_of("action", family="tool_canonical")
    return draw_robot(cell, "validation", seed=_SEED, index=0, episodes=0)


@final
@dataclass(frozen=True, eq=False)
class Disguise:
    """How one robot passes for the plain one."""

    camera: CameraPose
    plain: CameraPose
    space: ActionSpace

    @classmethod
    def of(cls, robot: UnseenRobot) -> Self:
        """From what is known of a robot."""
        return cls(robot.camera, CameraPose(), ToolDelta())

    def spec(self, env: SimEnv) -> RobotSpec:
        """What the robot declares in disguise: the plain actions."""
        actions = tuple(
            Dimension(name=dim.name, unit=dim.unit, low=dim.low, high=dim.high)
            for dim in self.space.dims(env.arm)
        )
        plain = {"action": actions, "max_step": None, "targets": ()}
        return env.spec.model_copy(update=plain)

    def see(self, observation: Observation) -> Observation:
        """The observation with its pictures as of the plain camera."""
        if self.camera == self.plain:
            return observation
        images = {name: self.warp(image) for name, image in observation.images.items()}
        return Observation(images, observation.state, observation.instruction)

    def warp(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture [S, S, 3] that the plain camera would take of the plane of the cubes."""
        side = len(image)
        u, v = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2)
        eye = self.plain.position
        rays = unproject(self.plain, np.stack([u, v, np.ones_like(u)], -1)) - eye
        falling = np.minimum(rays[..., 2:], -1e-6)
        seen = project(self.camera, eye + rays * (_PLANE_M - eye[2]) / falling)
        is_known = (rays[..., 2] < 0) & (seen[..., 2] > 0)
        is_known &= ((seen[..., :2] >= 0) & (seen[..., :2] <= 1)).all(-1)
        pixels = _bilinear(image, np.where(is_known[..., None], seen[..., :2] * side - 0.5, 0.0))
        return np.where(is_known[..., None], pixels, _BEHIND).astype(np.uint8)

    def command(self, action: NDArray[np.floating], env: SimEnv) -> Command:
        """What a plain action comes to in the robot's own actions, within its limits."""
        measured, kinematics = env.measure(), env.kinematics
        limits = env.action_space.dims(env.arm)
        low, high = np.array([d.low for d in limits]), np.array([d.high for d in limits])
        wanted = self.space.decode(action, measured, kinematics)
        own = np.clip(env.action_space.encode(wanted), low, high)
        return env.action_space.decode(own, measured, kinematics)


def _bilinear(image: NDArray[np.uint8], at: NDArray[np.floating]) -> NDArray[np.floating]:
    """Values of an image [S, S, 3] at (column, row) [..., 2], clamped to its border."""
    last = len(image) - 1
    at = np.clip(at, 0, last)
    low = np.minimum(np.floor(at).astype(np.int64), last - 1)
    (x, y), (fx, fy) = np.moveaxis(low, -1, 0), np.moveaxis((at - low)[..., None], -2, 0)
    top = image[y, x] * (1 - fx) + image[y, x + 1] * fx
    bottom = image[y + 1, x] * (1 - fx) + image[y + 1, x + 1] * fx
    return np.rint(top * (1 - fy) + bottom * fy)
