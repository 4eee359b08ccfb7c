"""Robots that training has never seen, drawn from seeds.

Pretraining draws cameras and action spaces from other random streams, and validation from others
than the test. All are drawn from continuous ranges: the chance of meeting one twice is nil.
"""

from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np

from selfalign.experiments.cells import Cell, draw_camera
from selfalign.sim.action_spaces import ActionSpace, ToolDelta, random_space
from selfalign.sim.arm import Arm
from selfalign.sim.cameras import CameraPose
from selfalign.sim.robots import make_arm

Split = Literal["test", "validation"]
SPLITS: Final[tuple[Split, ...]] = ("test", "validation")

# Separates these random streams from every other use of the same seed.
_STREAM: Final = 0xE7A1
_SPLIT_NUMBER: Final[dict[Split, int]] = {"test": 1, "validation": 2}
_CAMERA, _SPACE, _PLAY, _STARTS, _DEMONSTRATIONS, _METHODS = range(6)


@final
@dataclass(frozen=True, eq=False)
class UnseenRobot:
    """One arm, one way to number its actions, one camera, and the seeds of what is done with it."""

    name: str
    arm: Arm
    space: ActionSpace
    camera: CameraPose
    play_seed: int
    demonstration_seed: int
    method_seed: int
    starts: tuple[int, ...]

    def describe(self) -> str:
        """In words, for a table."""
        camera = self.camera
        return (
            f"{self.arm.name}, {type(self.space).__name__}, camera at {camera.azimuth_deg:+.0f} "
            f"deg, {camera.elevation_deg:.0f} deg up, {camera.distance_m:.2f} m, "
            f"{camera.fovy_deg:.0f} deg wide"
        )


def draw_robot(cell: Cell, split: Split, *, seed: int, index: int, episodes: int) -> UnseenRobot:
    """The `index`-th robot of a cell.

    Robots of the same split, seed and index share camera, play and start states over all cells that
    draw them, so that cells are comparable. More `episodes` go on with the same start states.
    """

    def stream(part: int) -> np.random.Generator:
        return np.random.default_rng([_STREAM, _SPLIT_NUMBER[split], seed, index, part])

    arm = make_arm(cell.arm)
    canonical = cell.family == "tool_canonical"
    return UnseenRobot(
        name=f"{split}-{seed}-{index}",
        arm=arm,
        space=ToolDelta() if canonical else random_space(stream(_SPACE), cell.family, arm),
        camera=draw_camera(stream(_CAMERA), cell.placement),
        play_seed=int(stream(_PLAY).integers(2**31)),
        demonstration_seed=int(stream(_DEMONSTRATIONS).integers(2**31)),
        method_seed=int(stream(_METHODS).integers(2**31)),
        starts=tuple(int(start) for start in stream(_STARTS).integers(2**31, size=episodes)),
    )
