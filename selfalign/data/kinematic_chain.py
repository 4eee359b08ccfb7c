"""A serial arm as plain numbers, and its kinematics for many joint vectors at once.

A robot spec may declare such a chain (`kinematics`); then its tool pose is known from its joints.

Shape key: `...` any leading shape, n joints. Positions in metres, angles in radians, quaternions
(w, x, y, z) of any length but zero.
"""

from typing import Annotated, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from selfalign.data.rotations import cross_matrix, matrix_vector, quaternion_matrix
from selfalign.errors import SelfAlignError

Floats = NDArray[np.float64]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Vector = tuple[Finite, Finite, Finite]
Quaternion = tuple[Finite, Finite, Finite, Finite]

MAX_JOINTS = 32


class KinematicsError(SelfAlignError):
    """Joints or targets that do not fit the chain."""


@final
class ChainJoint(BaseModel):
    """A revolute joint: where its frame stands in the frame before, and what it turns about.

    `position` and `quaternion` place the frame of this joint in that of the joint before (the
    first: in the robot's base frame). `axis` is given in the joint's own frame.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64, description="Name of its number in the state")
    position: Vector = Field(description="Origin [m]")
    quaternion: Quaternion = (1.0, 0.0, 0.0, 0.0)
    axis: Vector = (0.0, 0.0, 1.0)
    low: Finite = Field(description="Lower limit [rad]")
    high: Finite = Field(description="Upper limit [rad]")

    @model_validator(mode="after")
    def _has_a_direction_and_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) of joint {self.name!r} must be below {self.high}")
        if not (any(self.quaternion) and any(self.axis)):
            raise ValueError(f"quaternion and axis of joint {self.name!r} must not be zero")
        return self


@final
class KinematicChain(BaseModel):
    """A serial chain of revolute joints from the robot's base frame to its tool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    joints: tuple[ChainJoint, ...] = Field(min_length=1, max_length=MAX_JOINTS)
    tool_position: Vector = (0.0, 0.0, 0.0)
    tool_quaternion: Quaternion = (1.0, 0.0, 0.0, 0.0)
    posture: tuple[Finite, ...] | None = Field(
        None, description="Joints [rad] that the inverse leans towards; none: the middle of limits"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.posture is not None and len(self.posture) != len(self.joints):
            raise ValueError(
                f"posture has {len(self.posture)} numbers, but the chain {len(self.joints)} joints"
            )
        if not any(self.tool_quaternion):
            raise ValueError("tool_quaternion must not be zero")
        return self

    @property
    def limits(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each joint [rad]."""
        return tuple((joint.low, joint.high) for joint in self.joints)


@final
class InverseSettings(BaseModel):
    """How the damped least squares of the inverse walk. Defaults are those of `selfalign.sim`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int = Field(12, ge=1)
    damping: float = Field(0.02, gt=0)
    posture_gain: float = Field(0.05, ge=0, description="Null-space pull towards the posture")
    step_rad: float = Field(0.3, gt=0, description="Furthest that a joint moves in one iteration")
    tolerance: float = Field(1e-4, gt=0, description="Largest error left, metres and radians alike")


EXACT = InverseSettings(iterations=60, posture_gain=0.0, tolerance=1e-10)
"""No pull and many iterations: `forward` of what `inverse` returns is the target, where reached."""


@final
class ChainKinematics:
    """Forward kinematics, Jacobian and inverse of one chain. Holds no state; any thread may use it.

    All poses are in the robot's base frame.
    """

    def __init__(self, chain: KinematicChain, settings: InverseSettings | None = None) -> None:
        self.chain = chain
        self.settings = settings or InverseSettings()
        self.low, self.high = np.array(chain.limits, np.float64).T
        self.posture = np.array(
            (self.low + self.high) / 2 if chain.posture is None else chain.posture, np.float64
        )
        self._positions = np.array([joint.position for joint in chain.joints], np.float64)
        self._frames = quaternion_matrix([joint.quaternion for joint in chain.joints])
        axes = np.array([joint.axis for joint in chain.joints], np.float64)
        self._axes = axes / np.linalg.norm(axes, axis=-1, keepdims=True)
        self._crosses = cross_matrix(self._axes)
        self._tool = np.array(chain.tool_position, np.float64)
        self._tool_frame = quaternion_matrix(chain.tool_quaternion)

    @property
    def joint_count(self) -> int:
        """Number n of joints."""
        return len(self._axes)

    def forward(self, joints: ArrayLike) -> tuple[Floats, Floats]:
        """Tool positions [..., 3] and rotations [..., 3, 3] of joints [..., n].

        Raises:
            KinematicsError: the last axis is not n.
        """
        position, rotation, _, _ = self._poses(self._checked(joints))
        return position, rotation

    def jacobian(self, joints: ArrayLike) -> Floats:
        """[..., 6, n]: how the tool moves (m/rad, first three) and turns with each joint.

        Raises:
            KinematicsError: the last axis is not n.
        """
        position, _, origins, axes = self._poses(self._checked(joints))
        return _jacobian(position, origins, axes)

    def inverse(self, joints: ArrayLike, position: ArrayLike, rotation: ArrayLike) -> Floats:
        """Joints [..., n] that bring the tool from `joints` [..., n] to a pose.

        Damped least squares; gets as close as limits and iterations allow and never raises for a
        target out of reach. Rows do not influence one another.

        Args:
            joints: where to start from [..., n].
            position: tool positions wanted [..., 3].
            rotation: tool rotations wanted [..., 3, 3], or one [3, 3] for all.

        Raises:
            KinematicsError: the shapes do not belong together.
        """
        start = self._checked(joints)
        wanted = np.asarray(position, np.float64)
        if wanted.shape != (*start.shape[:-1], 3):
            raise KinematicsError(
                f"positions must be {[*start.shape[:-1], 3]} for joints {list(start.shape)}, "
                f"got {list(wanted.shape)}"
            )
        turned = np.broadcast_to(np.asarray(rotation, np.float64), (*wanted.shape, 3))
        flat = start.reshape(-1, self.joint_count)
        out = self._solve(flat, wanted.reshape(-1, 3), turned.reshape(-1, 3, 3))
        return out.reshape(start.shape)

    def _solve(self, joints: Floats, position: Floats, rotation: Floats) -> Floats:
        """`inverse` of rows [m, n]; a row that has arrived stays where it is."""
        settings = self.settings
        solution = np.clip(joints, self.low, self.high)
        active = np.arange(len(solution))
        for _ in range(settings.iterations):
            error, jacobian = self._error(solution[active], position[active], rotation[active])
            far = np.abs(error).max(-1) >= settings.tolerance
            active, error, jacobian = active[far], error[far], jacobian[far]
            if not len(active):
                break
            step = self._step(solution[active], error, jacobian)
            step *= np.minimum(1.0, settings.step_rad / np.abs(step).max(-1, keepdims=True))
            solution[active] = np.clip(solution[active] + step, self.low, self.high)
        return solution

    def _step(self, joints: Floats, error: Floats, jacobian: Floats) -> Floats:
        """One step of damped least squares [m, n] with the pull in its null space."""
        transposed = jacobian.swapaxes(-1, -2)
        square = jacobian @ transposed + self.settings.damping**2 * np.eye(6)
        pull = self.settings.posture_gain * (self.posture - joints)
        rest = error[..., None] - jacobian @ pull[..., None]
        step: Floats = pull + (transposed @ np.linalg.solve(square, rest))[..., 0]
        return step

    def _error(self, joints: Floats, position: Floats, rotation: Floats) -> tuple[Floats, Floats]:
        """Pose error [m, 6] in metres and radians, and Jacobian [m, 6, n]."""
        here, frame, origins, axes = self._poses(joints)
        turn = matrix_vector(rotation @ frame.swapaxes(-1, -2))
        return np.concatenate([position - here, turn], axis=-1), _jacobian(here, origins, axes)

    def _poses(self, joints: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Tool position and rotation; origin and axis of every joint [..., n, 3]."""
        lead = joints.shape[:-1]
        position, rotation = np.zeros((*lead, 3)), np.broadcast_to(np.eye(3), (*lead, 3, 3))
        origins, axes = np.empty((2, *lead, self.joint_count, 3))
        sine, rest = np.sin(joints)[..., None, None], (1 - np.cos(joints))[..., None, None]
        for i, cross in enumerate(self._crosses):
            position = position + rotation @ self._positions[i]
            rotation = rotation @ self._frames[i]
            origins[..., i, :], axes[..., i, :] = position, rotation @ self._axes[i]
            # Rodrigues' formula.
            turn = np.eye(3) + sine[..., i, :, :] * cross + rest[..., i, :, :] * (cross @ cross)
            rotation = rotation @ turn
        return position + rotation @ self._tool, rotation @ self._tool_frame, origins, axes

    def _checked(self, joints: ArrayLike) -> Floats:
        out = np.asarray(joints, np.float64)
        if out.ndim == 0 or out.shape[-1] != self.joint_count:
            raise KinematicsError(
                f"the chain has {self.joint_count} joints, got joints of shape {list(out.shape)}"
            )
        return out


def _jacobian(position: Floats, origins: Floats, axes: Floats) -> Floats:
    """[..., 6, n] from the tool's position and the origin and axis of every joint."""
    linear = np.cross(axes, position[..., None, :] - origins)
    return np.concatenate([linear, axes], axis=-1).swapaxes(-1, -2)
