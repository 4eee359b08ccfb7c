"""What an arm is: a chain of links and joints with a flange that carries the gripper.

Every arm is a chain of revolute joints on a fixed base and carries the same two-finger gripper,
so that arms differ in kinematics and looks alone. Quaternions are (w, x, y, z).
"""

from dataclasses import dataclass
from typing import Literal

Vector = tuple[float, ...]

WHITE = (0.93, 0.93, 0.94)
GREY = (0.72, 0.74, 0.77)
DARK = (0.28, 0.28, 0.29)
BLACK = (0.09, 0.09, 0.09)
BLUE = (0.6, 0.72, 0.94)


@dataclass(frozen=True)
class Shape:
    """One visible part of a link.

    `size` is a mesh's nothing, a capsule's or cylinder's radius, a box's half sizes. `span` is
    the end points (6 numbers) of a capsule or cylinder, or the centre (3 numbers) of a box. [m]
    """

    kind: Literal["mesh", "capsule", "cylinder", "box"]
    rgb: Vector
    mesh: str = ""
    size: Vector = ()
    span: Vector = ()


@dataclass(frozen=True)
class Link:
    """A body and the joint that moves it about `axis`, given in the frame of the body before."""

    position: Vector
    quaternion: Vector
    axis: Vector
    limits: tuple[float, float]
    mass: float
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Arm:
    """A robot arm: base, links in order, and the flange that carries the gripper.

    `posture` is the joint vector [rad] that the inverse kinematics starts from and leans towards;
    `elbow` is the index of the link whose origin counts as the elbow key point.
    """

    name: str
    base_shapes: tuple[Shape, ...]
    base_quaternion: Vector
    links: tuple[Link, ...]
    flange_position: Vector
    flange_quaternion: Vector
    posture: Vector
    elbow: int

    @property
    def joint_count(self) -> int:
        """Number of joints without the gripper."""
        return len(self.links)

    @property
    def joint_limits(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each joint [rad]."""
        return tuple(link.limits for link in self.links)
