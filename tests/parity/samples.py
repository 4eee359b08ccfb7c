"""What the processing fixtures are computed from: numbers, images, statistics and instructions.

The script that makes the fixtures runs this file in an environment of its own: numpy only.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

STATES, ACTIONS, WIDTH, HORIZON = 6, 5, 8, 3
# The fourth number never moved while the statistics were taken.
STATISTICS = {
    name: {
        "mean": [0.1, -2.0, 300.0, 0.5, 0.0, 1e-3][:size],
        "std": [1.0, 0.25, 40.0, 0.0, 1e-4, 2.0][:size],
        "q01": [-1.5, -2.5, 220.0, 0.5, -2e-4, -3.0][:size],
        "q99": [1.75, -1.25, 390.0, 0.5, 3e-4, 5.0][:size],
        "q10": [-1.0, -2.2, 260.0, 0.5, -1e-4, -2.0][:size],
        "q90": [1.25, -1.5, 350.0, 0.5, 2e-4, 3.0][:size],
        "min": [-2.0, -3.0, 200.0, 0.5, -3e-4, -4.0][:size],
        "max": [2.0, -1.0, 410.0, 0.5, 4e-4, 6.0][:size],
    }
    for name, size in (("state", STATES), ("action", ACTIONS))
}
# The gripper, the last action, stays absolute; the mask ends before it.
DELTA = (True, True, False, True)
IMAGE_SIDE = 28
IMAGE_SHAPES = ((48, 64), (64, 48), (31, 57), (20, 20), (28, 28), (10, 17), (8, 200), (480, 640))
TEXTS = (
    "pick up the red cube",
    "  Fold_the_towel\nnow ",
    "",
    "Öffne die 2. Schublade; State: 7,",
)
PROMPT_STATES = (
    (-1.0, -0.9999, 0.0, 0.25, 0.9999, 1.0),
    (-1.0000001, 1.0000001, -7.0, 7.0, 0.00390625, -0.0078125),
)


def raw(name: str, *lead: int) -> NDArray[np.float32]:
    """States or actions of the robot, near their statistics; float32 as robots send them."""
    size = STATES if name == "state" else ACTIONS
    mean, std = (np.array(STATISTICS[name][key][:size]) for key in ("mean", "std"))
    return (mean + _draw(f"raw {name}", (*lead, size)) * (std + 0.01)).astype(np.float32)


def normalised(*lead: int) -> NDArray[np.float32]:
    """What a model puts out: padded to its width."""
    return _draw("normalised", (*lead, WIDTH))


def image(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Smooth colours with sharp edges."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(rows / 7 + i) + np.cos(columns / (3 + i)) for i in range(3)]
    smooth = 127.5 + 60 * np.stack(waves, -1)
    smooth[(rows // 6 + columns // 5) % 4 == 0] = (250, 3, 90)
    return smooth.clip(0, 255).astype(np.uint8)


def _draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    generator = np.random.RandomState(zlib.crc32(name.encode()))  # its stream never changes
    return generator.standard_normal(shape).astype(np.float32)
