"""What the arm measures and what it is commanded, independent of any action space.

Shape key: `...` any leading shape (none, or time), n joints.
"""

from dataclasses import dataclass
from typing import final

import numpy as np


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """The arm at one instant, as it measures itself."""

    joints: np.ndarray
    """[..., n] rad"""
    opening: np.ndarray
    """[...] gap between the fingers [m]"""
    tool: np.ndarray
    """[..., 3] tool tip in the world [m]"""
    tool_rotation: np.ndarray
    """[..., 3, 3] tool frame in the world"""


@final
@dataclass(frozen=True, eq=False)
class Command:
    """What one control step asks for, together with what was measured when it was decided.

    `tool_target` is what a tool space asks for, `joint_target` what the servos are sent; the
    second follows from the first by the deterministic inverse kinematics, or the first from the
    second by forward kinematics.
    """

    measured: Measured
    tool_target: np.ndarray
    """[..., 3] m"""
    joint_target: np.ndarray
    """[..., n] rad"""
    opening_target: np.ndarray
    """[...] m"""
