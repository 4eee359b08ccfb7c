"""A robot with absolute targets, the same with their measured places, and its delta twin."""

import numpy as np

from selfalign.data.play_step import EpisodeSlice
from selfalign.data.spec import Camera, Dimension, RobotSpec

PERIOD_NS = 100_000_000
STEP = (0.5, 0.25)
"""`max_step` of the two targets; the third number, a gripper, is none."""


def target_spec(*, measured: bool = False, twin: bool = False) -> RobotSpec:
    """Two targets x and y in [-1, 3] and a gripper; `measured`: the state has x and y as well.

    With `twin` the same robot commanded by deltas, which are limited to what is `max_step` here.
    """
    names = ("y", "grip", "x") if measured else ("a", "b", "c")
    targets = (("x", STEP[0]), ("y", STEP[1]))
    grip = Dimension(name="gripper", unit="1", low=0, high=1)
    return RobotSpec(
        name="toy",
        rate_hz=10,
        cameras=(Camera(name="c0", height=24, width=32),),
        state=tuple(Dimension(name=n, unit="m", low=-1, high=3) for n in names),
        action=(
            *(
                Dimension(name=n, unit="m", low=-step, high=step)
                if twin
                else Dimension(name=n, unit="m", low=-1, high=3)
                for n, step in targets
            ),
            grip,
        ),
        max_step=None if twin else (*STEP, None),
        targets=() if twin else ("x", "y"),
        default_instruction="lift",
    )


def target_episode(length: int, seed: int = 0, *, gap: int | None = None) -> EpisodeSlice:
    """Random targets within the steps; after row `gap` - 1 half a second is missing."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(-1, 1, (length, 2)) * STEP
    action = np.column_stack([1 + np.cumsum(steps, 0), rng.uniform(0, 1, length)])
    t_ns = np.arange(length) * PERIOD_NS
    if gap is not None:
        t_ns = t_ns + np.where(np.arange(length) >= gap, 5 * PERIOD_NS, 0)
    return EpisodeSlice(
        images={"c0": rng.integers(0, 256, (length, 24, 32, 3), np.uint8)},
        state=rng.uniform(-1, 3, (length, 3)).astype(np.float32),
        action=action.astype(np.float32),
        t_ns=t_ns,
        instructions=("play",) * length,
    )
