"""Closed-loop episodes through the public API, the same start states again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from client import RobotClient
from deploy.demo.simulated_robot import SimulatedRobot

_FILM_FRAMES: Final = 8
# Distinguishes the noise of two calls of one episode; an episode has fewer calls.
_CALLS: Final = 1000


class WrongVersion(Exception):
    """A chunk was made by another W than the one under measurement."""


@final
@dataclass(frozen=True)
class Rollout:
    """One episode."""

    start: int
    instruction: str
    is_success: bool
    steps: int
    film: NDArray[np.uint8]
    """A few frames [n, height, width, 3] from its start to its end, evenly spaced."""


def measure(
    client: RobotClient,
    robot: SimulatedRobot,
    starts: Sequence[int],
    *,
    execute: int | None,
    version: int,
    ended: Callable[[Rollout], None] = lambda _: None,
) -> list[Rollout]:
    """Run one episode from each start state.

    Args:
        client: Asks the server for chunks, for this robot.
        robot: The robot.
        starts: Numbers of the start states.
        execute: Steps of a chunk to execute before the next is asked for; all if None.
        version: The W that must have made every chunk.
        ended: Called after each episode.

    Raises:
        WrongVersion: A chunk came from another W.
    """
    rollouts = []
    for start in starts:
        rollout = run_episode(client, robot, start, execute=execute, version=version)
        rollouts.append(rollout)
        ended(rollout)
    return rollouts


def run_episode(
    client: RobotClient,
    robot: SimulatedRobot,
    start: int,
    *,
    execute: int | None,
    version: int,
) -> Rollout:
    """One episode from a start state, in simulated time: the robot waits for each chunk.

    The policy's noise is seeded by start state and call, so that two measurements of one start
    state differ in W alone.

    Raises:
        WrongVersion: As `measure`.
    """
    robot.begin(start)
    frames = [robot.image]
    calls = 0
    while True:
        chunk = client.act(
            robot.observe(),
            observation_seq=calls,
            seed=start * _CALLS + calls,
            previous_action=robot.last_action,
        )
        if chunk.w_version != version:
            raise WrongVersion(
                f"measuring W version {version}, but version {chunk.w_version} made a chunk"
            )
        calls += 1
        for action in chunk.actions[:execute]:
            robot.apply(action)
            frames.append(robot.image)
            if robot.is_over:
                return Rollout(
                    start=start,
                    instruction=robot.observe()["instruction"],
                    is_success=robot.is_success,
                    steps=len(frames) - 1,
                    film=film(frames),
                )


def film(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A few frames evenly spaced over an episode, its first and its last among them."""
    chosen = np.linspace(0, len(frames) - 1, min(_FILM_FRAMES, len(frames))).round().astype(int)
    return np.stack([frames[i] for i in chosen])
