"""How a robot numbers its actions: the same motion in many action spaces.

A delta is relative to what is **measured** when the action is decided, never to the last target,
so that all an action depends on can be observed. An absolute space declares its numbers as targets:
a policy sees their change since the last command. Every space ends with the absolute finger
opening. `encode` and `decode` are inverse of one another, and `encode` is vectorised over time:
one recorded motion can be relabelled into any space, and the label is what would execute it.

Shape key: `...` any leading shape, n joints, A actions.
"""

from dataclasses import dataclass, field
from typing import Protocol, final

import numpy as np

from selfalign.errors import SelfAlignError
from selfalign.sim.arm import Arm
from selfalign.sim.kinematics import Kinematics
from selfalign.sim.motion import Command, Measured
from selfalign.sim.scene import OPENING_MAX_M

TOOL_STEP_M = 0.04
"""Declared limit of a tool delta, each axis."""
JOINT_STEP_RAD = 0.15
"""Declared limit of a joint delta, each joint."""
MOTION_STEP_M = 0.028
"""Longest tool step (Euclidean) that experts and play take: TOOL_STEP_M times the smallest scale
of a random space, so that their motion lies inside the limits of every space."""
MOTION_JOINT_STEP_RAD = 0.105
"""The same for joints: no inverse kinematics step moves a joint further."""
SCALES = (0.7, 1.3)
WORKSPACE_LOW = np.array([0.30, -0.27, 0.012])
WORKSPACE_HIGH = np.array([0.66, 0.27, 0.32])
"""Tool targets are clamped to this box [m]; every arm reaches all of it."""
_ABSOLUTE_REACH_M = 0.36

FAMILIES = (
    "tool_canonical",
    "tool_yawed",
    "tool_rotated",
    "tool_frame",
    "tool_absolute",
    "joint_canonical",
    "joint_permuted",
    "joint_absolute",
)


class UnknownActionSpace(SelfAlignError):
    """There is no family of action spaces of that name."""


@dataclass(frozen=True)
class ActionLimit:
    """One number of an action and its declared range.

    A `step` makes it an absolute target: no command changes it by more.
    """

    name: str
    unit: str
    low: float
    high: float
    step: float | None = None


class ActionSpace(Protocol):
    """What an environment and a relabeller need of an action space."""

    def dims(self, arm: Arm) -> tuple[ActionLimit, ...]:
        """Name, unit and limits of each of the A numbers."""

    def encode(self, command: Command) -> np.ndarray:
        """Return the raw action [..., A] that decodes to `command`."""

    def decode(self, action: np.ndarray, measured: Measured, kinematics: Kinematics) -> Command:
        """Return the command that the raw action [A] means for an arm measured so."""


_OPENING = ActionLimit("gripper_opening", "m", 0.0, OPENING_MAX_M)


def _identity() -> np.ndarray:
    return np.eye(3)


@final
@dataclass(frozen=True, eq=False)
class ToolDelta:
    """Tool displacement in a frame of the robot's own: base displacement = scale * rotation @ raw.

    `rotation` is orthogonal and may mirror. With `in_tool_frame` the displacement is taken in the
    measured tool frame instead of the base frame.
    """

    rotation: np.ndarray = field(default_factory=_identity)
    scale: float = 1.0
    in_tool_frame: bool = False

    def dims(self, arm: Arm) -> tuple[ActionLimit, ...]:
        """See `ActionSpace`."""
        del arm
        deltas = (ActionLimit(f"delta_{axis}", "m", -TOOL_STEP_M, TOOL_STEP_M) for axis in "xyz")
        return (*deltas, _OPENING)

    def encode(self, command: Command) -> np.ndarray:
        """See `ActionSpace`."""
        shift = command.tool_target - command.measured.tool
        if self.in_tool_frame:
            shift = np.einsum("...ji,...j->...i", command.measured.tool_rotation, shift)
        return _with_opening(shift @ self.rotation / self.scale, command)

    def decode(self, action: np.ndarray, measured: Measured, kinematics: Kinematics) -> Command:
        """See `ActionSpace`."""
        shift = self.scale * (self.rotation @ action[:3])
        if self.in_tool_frame:
            shift = measured.tool_rotation @ shift
        return tool_command(measured, measured.tool + shift, action[3], kinematics)


@final
@dataclass(frozen=True, eq=False)
class ToolAbsolute:
    """Tool position in a frame of the robot's own: base position = rotation @ raw + offset."""

    rotation: np.ndarray = field(default_factory=_identity)
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def dims(self, arm: Arm) -> tuple[ActionLimit, ...]:
        """See `ActionSpace`."""
        del arm
        centre = ((WORKSPACE_LOW + WORKSPACE_HIGH) / 2 - self.offset) @ self.rotation
        reach = _ABSOLUTE_REACH_M
        positions = (
            ActionLimit(
                f"tool_{axis}", "m", float(middle - reach), float(middle + reach), TOOL_STEP_M
            )
            for axis, middle in zip("xyz", centre, strict=True)
        )
        return (*positions, _OPENING)

    def encode(self, command: Command) -> np.ndarray:
        """See `ActionSpace`."""
        return _with_opening((command.tool_target - self.offset) @ self.rotation, command)

    def decode(self, action: np.ndarray, measured: Measured, kinematics: Kinematics) -> Command:
        """See `ActionSpace`."""
        target = self.rotation @ action[:3] + self.offset
        return tool_command(measured, target, action[3], kinematics)


@final
@dataclass(frozen=True)
class JointDelta:
    """Joint displacement: raw[i] = signs[i] * displacement[order[i]] / scale. None: as mounted."""

    order: tuple[int, ...] | None = None
    signs: tuple[int, ...] | None = None
    scale: float = 1.0

    def dims(self, arm: Arm) -> tuple[ActionLimit, ...]:
        """See `ActionSpace`."""
        deltas = (
            ActionLimit(f"joint_{i + 1}_delta", "rad", -JOINT_STEP_RAD, JOINT_STEP_RAD)
            for i in range(arm.joint_count)
        )
        return (*deltas, _OPENING)

    def encode(self, command: Command) -> np.ndarray:
        """See `ActionSpace`."""
        shift = command.joint_target - command.measured.joints
        return _with_opening(_arrange(shift, self.order, self.signs) / self.scale, command)

    def decode(self, action: np.ndarray, measured: Measured, kinematics: Kinematics) -> Command:
        """See `ActionSpace`."""
        shift = self.scale * _rearrange(action[:-1], self.order, self.signs)
        return joint_command(measured, measured.joints + shift, action[-1], kinematics)


@final
@dataclass(frozen=True)
class JointAbsolute:
    """Joint positions: raw[i] = signs[i] * position[order[i]]. None: as mounted."""

    order: tuple[int, ...] | None = None
    signs: tuple[int, ...] | None = None

    def dims(self, arm: Arm) -> tuple[ActionLimit, ...]:
        """See `ActionSpace`."""
        ends = _arrange(np.array(arm.joint_limits).T, self.order, self.signs)
        # Only as mounted are they the joints that the state measures.
        name = "joint" if self.order is None and self.signs is None else "servo"
        positions = (
            ActionLimit(f"{name}_{i + 1}", "rad", float(low), float(high), JOINT_STEP_RAD)
            for i, (low, high) in enumerate(np.sort(ends, axis=0).T)
        )
        return (*positions, _OPENING)

    def encode(self, command: Command) -> np.ndarray:
        """See `ActionSpace`."""
        return _with_opening(_arrange(command.joint_target, self.order, self.signs), command)

    def decode(self, action: np.ndarray, measured: Measured, kinematics: Kinematics) -> Command:
        """See `ActionSpace`."""
        target = _rearrange(action[:-1], self.order, self.signs)
        return joint_command(measured, target, action[-1], kinematics)


def tool_command(
    measured: Measured, tool_target: np.ndarray, opening: float, kinematics: Kinematics
) -> Command:
    """Return the command that moves the tool tip towards `tool_target` [3] in one step."""
    target = np.clip(tool_target, WORKSPACE_LOW, WORKSPACE_HIGH)
    step = kinematics.inverse(measured.joints, target) - measured.joints
    step *= min(1.0, MOTION_JOINT_STEP_RAD / max(float(np.abs(step).max()), 1e-9))
    return Command(measured, target, measured.joints + step, _opening(opening))


def joint_command(
    measured: Measured, joint_target: np.ndarray, opening: float, kinematics: Kinematics
) -> Command:
    """Return the command that moves the joints towards `joint_target` [n] in one step."""
    target = np.clip(joint_target, kinematics.low, kinematics.high)
    return Command(measured, kinematics.forward(target)[0], target, _opening(opening))


def normalised_label(space: ActionSpace, command: Command, arm: Arm) -> np.ndarray:
    """Encode a command, or a whole recorded motion, to float32 [..., A] with limits at -1 and 1.

    A target is labelled by its change from where the arm is measured. A server takes the change
    from the last command instead; the arm has almost arrived there when the next one is decided.
    """
    dims = space.dims(arm)
    still = held(command.measured)
    low = np.array([dim.low if dim.step is None else -dim.step for dim in dims])
    high = np.array([dim.high if dim.step is None else dim.step for dim in dims])
    is_target = np.array([dim.step is not None for dim in dims])
    numbers = space.encode(command) - np.where(is_target, space.encode(still), 0.0)
    return (2 * (numbers - low) / (high - low) - 1).astype(np.float32)


def held(measured: Measured) -> Command:
    """The command that keeps an arm where it is measured."""
    return Command(measured, measured.tool, measured.joints, measured.opening)


def random_rotation(rng: np.random.Generator, *, mirror: bool) -> np.ndarray:
    """Draw an orthogonal matrix [3, 3] uniformly; `mirror` makes its determinant -1."""
    matrix, triangle = np.linalg.qr(rng.standard_normal((3, 3)))
    matrix *= np.sign(np.diag(triangle))
    wanted = -1.0 if mirror else 1.0
    return matrix if np.sign(np.linalg.det(matrix)) == wanted else -matrix


def random_yaw(rng: np.random.Generator, *, mirror: bool) -> np.ndarray:
    """Draw a turn [3, 3] about the vertical by any angle; mirrored, its second axis is flipped."""
    angle = rng.uniform(-np.pi, np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return np.diag([1.0, -1.0 if mirror else 1.0, 1.0]) @ turn


def random_space(rng: np.random.Generator, family: str, arm: Arm) -> ActionSpace:
    """Draw an action space of one of `FAMILIES`.

    Raises:
        UnknownActionSpace: for any other name.
    """
    if family == "tool_canonical":
        return ToolDelta()
    if family == "tool_rotated":
        rotation = random_rotation(rng, mirror=bool(rng.random() < 0.5))
        return ToolDelta(rotation, float(rng.uniform(*SCALES)))
    if family == "tool_yawed":
        rotation = random_yaw(rng, mirror=bool(rng.random() < 0.5))
        return ToolDelta(rotation, float(rng.uniform(*SCALES)))
    if family == "tool_frame":
        return ToolDelta(in_tool_frame=True)
    if family == "tool_absolute":
        rotation = random_rotation(rng, mirror=bool(rng.random() < 0.5))
        return ToolAbsolute(rotation, rng.uniform(-0.5, 0.5, 3))
    if family == "joint_canonical":
        return JointDelta()
    order = tuple(int(i) for i in rng.permutation(arm.joint_count))
    signs = tuple(int(sign) for sign in rng.choice((-1, 1), arm.joint_count))
    if family == "joint_permuted":
        return JointDelta(order, signs, float(rng.uniform(*SCALES)))
    if family == "joint_absolute":
        return JointAbsolute(order, signs)
    raise UnknownActionSpace(f"no family {family!r} of action spaces; known: {', '.join(FAMILIES)}")


def _opening(value: float) -> np.ndarray:
    return np.asarray(np.clip(value, 0.0, OPENING_MAX_M))


def _with_opening(numbers: np.ndarray, command: Command) -> np.ndarray:
    return np.concatenate([numbers, np.asarray(command.opening_target)[..., None]], axis=-1)


def _arrange(
    joints: np.ndarray, order: tuple[int, ...] | None, signs: tuple[int, ...] | None
) -> np.ndarray:
    """From joints as mounted [..., n] to the robot's own numbering."""
    arranged = joints if order is None else joints[..., list(order)]
    return arranged if signs is None else arranged * np.array(signs)


def _rearrange(
    numbers: np.ndarray, order: tuple[int, ...] | None, signs: tuple[int, ...] | None
) -> np.ndarray:
    """From the robot's own numbering [n] back to joints as mounted."""
    signed = numbers if signs is None else numbers * np.array(signs)
    if order is None:
        return signed
    joints = np.empty_like(signed)
    joints[list(order)] = signed
    return joints
