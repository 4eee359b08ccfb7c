"""`python -m deploy.demo.record`: write simulated play to a file for `selfalign-client play`.

The robot is the plain simulated Panda of the server's default spec.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from client.play_file import PlayFile
from deploy.demo.arguments import count
from deploy.demo.embodiments import Embodiment
from deploy.demo.simulated_robot import CAMERA, SimulatedRobot
from selfalign.sim.action_spaces import ToolDelta
from selfalign.sim.cameras import CameraPose
from selfalign.sim.robots import make_arm

_NANOSECONDS: Final = 10**9


def record(robot: SimulatedRobot, steps: int, *, seed: int) -> PlayFile:
    """Let a robot play for a number of steps, in simulated time."""
    images, states, actions = [], [], []
    for observation, action in tqdm(
        robot.play(steps, seed=seed), total=steps, desc="play", unit="step", disable=None
    ):
        images.append(observation["images"][CAMERA])
        states.append(observation["state"])
        actions.append(action)
    times = np.arange(steps) * robot.period_s * _NANOSECONDS
    return PlayFile(
        images={CAMERA: np.stack([np.asarray(image) for image in images])},
        state=np.stack(states).astype(np.float32),
        action=np.stack(actions),
        t_ns=times.round().astype(np.int64),
    )


def plain_panda() -> Embodiment:
    """The simulated robot that the server's default spec describes."""
    return Embodiment("panda", make_arm("panda"), ToolDelta(), CameraPose())


def main(argv: Sequence[str] | None = None) -> int:
    """Record and write. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo.record",
        description="Write simulated play to a file for `selfalign-client play --from FILE`.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("play.npz"))
    parser.add_argument("--steps", type=count, default=130, help="at 10 Hz (default 130: 13 s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    with SimulatedRobot(plain_panda()) as robot:
        record(robot, arguments.steps, seed=arguments.seed).write(arguments.output)
    path, steps = arguments.output, arguments.steps
    print(f"{path}: {steps} steps. Send it: selfalign-client play --from {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
