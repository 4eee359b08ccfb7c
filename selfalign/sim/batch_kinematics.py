"""The kinematics of `selfalign.sim.kinematics` for many joint vectors at once, in numpy alone.

The same forward kinematics and the same inverse, step for step; a test holds them together. Stage 1
asks what the expert's joints would be at hundreds of thousands of recorded frames.

Shape key: m joint vectors, n joints.
"""

from typing import final

import numpy as np
from numpy.typing import NDArray

from selfalign.sim.arm import Arm, Vector
from selfalign.sim.scene import TOOL_LENGTH_M

Floats = NDArray[np.float64]

_TOOL_DOWN = np.diag([1.0, -1.0, -1.0])
_DAMPING = 0.02
_POSTURE_GAIN = 0.05
_STEP_RAD = 0.3
_TOLERANCE = 1e-4


@final
class BatchKinematics:
    """Forward and inverse kinematics of one arm over batches of joint vectors."""

    def __init__(self, arm: Arm) -> None:
        self.low, self.high = np.array(arm.joint_limits, np.float64).T
        self.posture = np.array(arm.posture, np.float64)
        self._base = _matrix(arm.base_quaternion)
        self._positions = [np.array(link.position) for link in arm.links]
        self._frames = [_matrix(link.quaternion) for link in arm.links]
        self._axes = [np.array(link.axis) / np.linalg.norm(link.axis) for link in arm.links]
        flange = _matrix(arm.flange_quaternion)
        self._flange = flange
        self._tool = np.array(arm.flange_position) + flange @ np.array([0.0, 0.0, TOOL_LENGTH_M])

    def forward(self, joints: Floats) -> tuple[Floats, Floats]:
        """Tool positions [m, 3] in metres and rotations [m, 3, 3], both in the world."""
        position, rotation, _, _ = self._chain(joints)
        return position, rotation

    def inverse(self, joints: Floats, target: Floats, *, iterations: int = 12) -> Floats:
        """Joints [m, n] that put the tools at `target` [m, 3], pointing down with their yaw held.

        Gets as close as joint limits allow; never raises for a target out of reach.
        """
        solution = np.clip(np.asarray(joints, np.float64), self.low, self.high)
        active = np.arange(len(solution))
        for _ in range(iterations):
            error, jacobian = self._error(solution[active], target[active])
            far = np.abs(error).max(1) >= _TOLERANCE
            active, error, jacobian = active[far], error[far], jacobian[far]
            if not len(active):
                break
            square = jacobian @ jacobian.transpose(0, 2, 1) + _DAMPING**2 * np.eye(6)
            pull = _POSTURE_GAIN * (self.posture - solution[active])
            rest = error - np.einsum("mij,mj->mi", jacobian, pull)
            solved = np.linalg.solve(square, rest[..., None])[..., 0]
            step = pull + np.einsum("mij,mi->mj", jacobian, solved)
            step *= np.minimum(1.0, _STEP_RAD / np.abs(step).max(1, keepdims=True))
            solution[active] = np.clip(solution[active] + step, self.low, self.high)
        return solution

    def _chain(self, joints: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Tool position and rotation, and origin and axis of every joint [m, n, 3], in the world."""
        count = len(joints)
        rotation = np.broadcast_to(self._base, (count, 3, 3))
        position = np.zeros((count, 3))
        origins, axes = np.empty((2, count, len(self._axes), 3))
        for i, (offset, frame, axis) in enumerate(
            zip(self._positions, self._frames, self._axes, strict=True)
        ):
            position = position + rotation @ offset
            rotation = rotation @ frame
            origins[:, i], axes[:, i] = position, rotation @ axis
            rotation = rotation @ _turn(axis, joints[:, i])
        return position + rotation @ self._tool, rotation @ self._flange, origins, axes

    def _error(self, joints: Floats, target: Floats) -> tuple[Floats, Floats]:
        """The pose error [m, 6] (metres, radians) and the tool's Jacobian [m, 6, n]."""
        position, rotation, origins, axes = self._chain(joints)
        linear = np.cross(axes, position[:, None] - origins)
        jacobian = np.concatenate([linear, axes], axis=2).transpose(0, 2, 1)
        turn = _rotation_vector(_TOOL_DOWN @ rotation.transpose(0, 2, 1))
        return np.concatenate([target - position, turn], axis=1), jacobian


def _matrix(quaternion: Vector) -> Floats:
    """Rotation matrix [3, 3] of a quaternion (w, x, y, z) of any length."""
    w, x, y, z = np.array(quaternion, np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _turn(axis: Floats, angles: Floats) -> Floats:
    """Rotations [m, 3, 3] about one unit axis by angles [m] in radians (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    sin, cos = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    return np.eye(3) + sin * cross + (1 - cos) * (cross @ cross)


def _rotation_vector(rotation: Floats) -> Floats:
    """Rotation vectors [m, 3] in radians of rotations [m, 3, 3] by less than half a turn."""
    twist = np.stack(
        [
            rotation[:, 2, 1] - rotation[:, 1, 2],
            rotation[:, 0, 2] - rotation[:, 2, 0],
            rotation[:, 1, 0] - rotation[:, 0, 1],
        ],
        axis=1,
    )
    sine = np.linalg.norm(twist, axis=1, keepdims=True) / 2
    cosine = (np.trace(rotation, axis1=1, axis2=2)[:, None] - 1) / 2
    angle = np.arctan2(sine, cosine)
    return twist / 2 * np.where(sine < 1e-9, 1.0, angle / sine.clip(1e-12))
