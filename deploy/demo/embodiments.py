"""Robots that the shipped model has never seen, drawn by a seed of their own.

Pretraining draws its cameras and action spaces from other random streams. All are drawn from
continuous ranges, so that the chance of meeting one of its embodiments here is nil.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np

from selfalign.sim.action_spaces import FAMILIES, ActionSpace, ToolDelta, random_space
from selfalign.sim.cameras import CameraPose, random_camera
from selfalign.sim.robots import Arm, make_arm

Scenario = Literal["action", "camera", "both", "robot", "all"]
SCENARIOS: Final[tuple[Scenario, ...]] = ("both", "action", "camera", "robot", "all")

__all__ = ["FAMILIES", "SCENARIOS", "Embodiment", "Scenario", "draw_embodiment"]

# Separates the demonstration's random stream from every other use of the same seed.
_STREAM: Final = 0xDE40


@final
@dataclass(frozen=True)
class Embodiment:
    """One arm, one way to number its actions, one camera, and the seed of its play."""

    name: str
    arm: Arm
    action_space: ActionSpace
    camera: CameraPose
    play_seed: int = 0

    def describe(self) -> str:
        """In words, for a table."""
        words = f"{describe_space(self.action_space)}; {describe_camera(self.camera)}"
        return words if self.arm.name == "panda" else f"{self.arm.name}; {words}"


def draw_embodiment(
    scenario: Scenario, *, seed: int, index: int, family: str = "tool_rotated"
) -> Embodiment:
    """The `index`-th unseen robot of a seed: a Panda, or a UR5e.

    Args:
        scenario: What about it is unseen: `action` (an action space of the family; the camera
            stands in front), `camera` (anywhere in the trained sector; the plain tool frame),
            `both`, `robot` (a UR5e with the plain tool frame and camera) or `all` three.
        seed: Seed of the whole demonstration.
        index: Which one.
        family: What the action space is drawn from, one of `FAMILIES`; by default tool frames
            turned any way, maybe mirrored, and rescaled.
    """
    # Streams of their own: a robot keeps its camera whatever its action space is drawn from.
    spaces, cameras, play = (np.random.default_rng([_STREAM, seed, index, i]) for i in range(3))
    arm = make_arm("ur5e" if scenario in ("robot", "all") else "panda")
    space = random_space(spaces, family, arm)
    camera = random_camera(cameras)
    return Embodiment(
        name=f"unseen-{seed}-{index}",
        arm=arm,
        action_space=ToolDelta() if scenario in ("camera", "robot") else space,
        camera=CameraPose() if scenario in ("action", "robot") else camera,
        play_seed=int(play.integers(2**31)),
    )


def describe_camera(camera: CameraPose) -> str:
    """Where it stands."""
    return (
        f"camera at {camera.azimuth_deg:+.0f} deg, {camera.elevation_deg:.0f} deg up, "
        f"{camera.distance_m:.2f} m"
    )


def describe_space(space: ActionSpace) -> str:
    """How far it is from the plain tool frame."""
    if not isinstance(space, ToolDelta):
        return type(space).__name__
    is_mirrored = bool(np.linalg.det(space.rotation) < 0)
    proper = -space.rotation if is_mirrored else space.rotation
    cosine = float(np.clip((np.trace(proper) - 1) / 2, -1.0, 1.0))
    mirrored = " and mirrored" if is_mirrored else ""
    return (
        f"tool frame turned {math.degrees(math.acos(cosine)):.0f} deg{mirrored}, x{space.scale:.2f}"
    )
