"""How far the command jumps where a new chunk takes over, with and without real-time chunking.

A simulated robot goes on moving while each chunk is computed: the delay is a number of steps, so
the figures do not depend on the machine. In every episode W is swapped, from the base to one that
was aligned on play of this robot. All ways use the same start states and the same noise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.demo.embodiments import draw_embodiment
from deploy.demo.simulated_robot import CAMERA, SimulatedRobot
from selfalign.align.aligner import Aligner
from selfalign.align.robot_io import RobotIO
from selfalign.data.continuation import Continuation
from selfalign.data.observation import Observation
from selfalign.data.play_step import EpisodeSlice
from selfalign.data.spec import RobotSpec
from selfalign.data.transitions import transition_starts
from selfalign.model.policy import Policy
from selfalign.model.rtc import Guidance
from selfalign.model.weights import FastWeights
from server.safety import ActionLimits
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.served_model import load_served_policy

ROBOTS = 2
EPISODES = 8
DELAYS = (1, 2)
PLAY_STEPS = 130
ALIGN_STEPS = 50
SWAP_AT_CHUNK = 3
# Distinguishes the noise of two calls of one episode; an episode has fewer calls.
CALLS = 1000


@dataclass
class Tally:
    """What was seen with one delay."""

    successes: list[bool] = field(default_factory=list)
    seams: list[float] = field(default_factory=list)
    swap_seams: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)
    chunk_ms: list[float] = field(default_factory=list)

    @property
    def all_seams(self) -> list[float]:
        """Every takeover, those at a swap among them."""
        return self.seams + self.swap_seams


Tallies = dict[int, Tally]


def measure(
    robots: int = ROBOTS, episodes: int = EPISODES, delays: tuple[int, ...] = DELAYS
) -> Iterator[Figure]:
    """`rtc_seam_jump_off`, `rtc_seam_jump_guided` and `rtc_seam_jump_guided_vjp`."""
    torch.set_num_threads(1)
    policy = load_served_policy()
    ways: tuple[Tallies, ...] = tuple({d: Tally() for d in delays} for _ in range(3))
    for index in range(robots):
        embodiment = draw_embodiment("action", seed=0, index=index, family="tool_yawed")
        with SimulatedRobot(embodiment) as robot:
            spec = RobotSpec.from_mapping(robot.spec)
            plain, vjp = RobotIO(policy, spec), RobotIO(policy, spec, guidance=Guidance("network"))
            weights = policy.base_w(), aligned_w(policy, plain, robot, seed=index)
            for start in range(episodes):
                for delay in delays:
                    for io, tallies in zip((plain, plain, vjp), ways, strict=True):
                        maker = Maker(io, weights, start, tallies[delay])
                        run(maker, robot, delay, continues=tallies is not ways[0])
    yield figure("rtc_seam_jump_off", ways[0], policy)
    off = mean(ways[0], "all_seams")
    yield figure("rtc_seam_jump_guided", ways[1], policy, goal=off)
    yield figure("rtc_seam_jump_guided_vjp", ways[2], policy)


def run(maker: Maker, robot: SimulatedRobot, delay: int, *, continues: bool) -> None:
    """One episode: the next chunk is asked for when the last one takes over, as the client does."""
    robot.begin(maker.start)
    chunk = maker.make(robot, None)
    executed = [chunk[0]]
    robot.apply(chunk[0])
    row = 1
    while not robot.is_over:
        left = chunk[row:]
        chunk = maker.make(robot, Continuation(left, delay, len(left)) if continues else None)
        for action in left[:delay]:
            if not robot.is_over:
                executed.append(action)
                robot.apply(action)
        if not robot.is_over:
            maker.saw_seam(left[delay - 1], chunk[delay])
        row = delay
    maker.ended(executed, is_success=robot.is_success)


class Maker:
    """Makes an episode's safe chunks, from `SWAP_AT_CHUNK` on with the second W, and counts."""

    def __init__(
        self, io: RobotIO, weights: tuple[FastWeights, FastWeights], start: int, tally: Tally
    ) -> None:
        self.start = start
        self._io, self._weights, self._tally = io, weights, tally
        self._limits = ActionLimits(io.spec)
        self._calls = 0

    def saw_seam(self, last: NDArray[np.float32], first: NDArray[np.float32]) -> None:
        """Note the commands before and after a takeover."""
        is_swap = self._calls - 1 == SWAP_AT_CHUNK
        seams = self._tally.swap_seams if is_swap else self._tally.seams
        seams.append(jump(self._io, last, first))

    def ended(self, executed: list[NDArray[np.float32]], *, is_success: bool) -> None:
        """Note the commands of a whole episode."""
        self._tally.successes.append(is_success)
        self._tally.commands += [jump(self._io, *pair) for pair in pairwise(executed)]

    def make(self, robot: SimulatedRobot, continuation: Continuation | None) -> NDArray[np.float32]:
        """The chunk [H, a] for what the robot sees now."""
        seen, seed = robot.observe(), self.start * CALLS + self._calls
        w = self._weights[self._calls >= SWAP_AT_CHUNK]
        self._calls += 1
        begun_s = time.perf_counter()
        made = self._io.act(
            [Observation(**seen)],  # type: ignore[arg-type]
            w,
            seed=seed,
            continuations=[continuation],
        )
        self._tally.chunk_ms.append((time.perf_counter() - begun_s) * 1e3)
        return self._limits.apply(made[0], None).actions


def jump(io: RobotIO, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The distance of two commands: root of the mean square, normalised (the limits are -1, 1)."""
    normalise = io.action_normaliser.normalise
    change = (normalise(other) - normalise(one))[io.action_normaliser.mask]
    return float(np.sqrt(np.mean(np.square(change))))


def aligned_w(policy: Policy, io: RobotIO, robot: SimulatedRobot, *, seed: int) -> FastWeights:
    """W after a session on play of this robot."""
    played = list(robot.play(PLAY_STEPS, seed=seed))
    play = EpisodeSlice(
        images={CAMERA: np.stack([np.asarray(o["images"][CAMERA]) for o, _ in played])},
        state=np.stack([np.asarray(o["state"], np.float32) for o, _ in played]),
        action=np.stack([action for _, action in played]),
        t_ns=np.arange(PLAY_STEPS, dtype=np.int64) * io.spec.period_ns,
        instructions=("",) * PLAY_STEPS,
    )
    starts = transition_starts(
        play.t_ns, PLAY_STEPS, stride=policy.config.stride, period_ns=io.spec.period_ns
    )
    batch, aligner = io.transitions(play, starts), Aligner(policy)
    state, generator = aligner.start(policy.base_w()), torch.Generator().manual_seed(0)
    for _ in range(ALIGN_STEPS):
        rows = torch.randint(len(batch), (aligner.config.batch_size,), generator=generator)
        state = aligner.step(batch.index(rows), state)
    return state.w


def mean(tallies: Tallies, what: str) -> float:
    """The mean over all delays of one list."""
    values = [value for tally in tallies.values() for value in getattr(tally, what)]
    return float(np.mean(values)) if values else float("nan")


def figure(name: str, tallies: Tallies, policy: Policy, goal: float | None = None) -> Figure:
    """The mean jump over all takeovers, with everything that puts it into proportion."""
    seams = [value for tally in tallies.values() for value in tally.all_seams]
    return Figure(
        name,
        mean(tallies, "all_seams"),
        "normalised action",
        goal=goal,
        details={
            "p95": rounded(percentile(seams, 95)),
            "at_swap": rounded(mean(tallies, "swap_seams")),
            "by_delay": {str(d): rounded(float(np.mean(t.all_seams))) for d, t in tallies.items()},
            "takeovers": len(seams),
            "between_commands": rounded(mean(tallies, "commands")),
            "success": {
                str(d): f"{sum(t.successes)}/{len(t.successes)}" for d, t in tallies.items()
            },
            "chunk_p50_ms": rounded(
                percentile([ms for tally in tallies.values() for ms in tally.chunk_ms], 50)
            ),
            "horizon": policy.config.horizon,
        },
    )
