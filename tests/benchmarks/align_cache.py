"""What caching the prefix saves: an alignment step that recomputes it over one that does not.

In this process, on the shipped model; the two kinds of step alternate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from selfalign.align.aligner import Aligner, AlignmentConfig
from selfalign.align.robot_io import RobotIO
from selfalign.data.play_step import EpisodeSlice
from selfalign.data.spec import RobotSpec
from server.settings import shipped_specs
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.robot import play_step
from tests.benchmarks.served_model import load_served_policy

STEPS = 40
TRANSITIONS = 32
PLAY_STEPS = 256


def measure() -> Iterator[Figure]:
    """`align_step_uncached_over_cached`."""
    torch.set_num_threads(1)
    spec = RobotSpec.from_file(shipped_specs()[0])
    io = RobotIO(load_served_policy(), spec)
    episode = random_episode(spec, PLAY_STEPS + io.policy.config.stride)
    starts = np.random.default_rng(0).permutation(PLAY_STEPS)[:TRANSITIONS]
    aligner = Aligner(io.policy, AlignmentConfig(batch_size=TRANSITIONS))
    batch = io.transitions(episode, starts)
    state = aligner.start(io.policy.base_w())

    def cached() -> None:
        aligner.step(batch, state)

    def uncached() -> None:
        aligner.step(io.transitions(episode, starts), state)

    cached_ms, uncached_ms = [], []
    for turn in range(STEPS + 3):
        pair = time_ms(cached), time_ms(uncached)
        if turn >= 3:
            cached_ms.append(pair[0])
            uncached_ms.append(pair[1])
    yield Figure(
        "align_step_uncached_over_cached",
        percentile(uncached_ms, 50) / percentile(cached_ms, 50),
        "ratio",
        goal=3.0,
        better="higher",
        details={
            "cached_p50_ms": rounded(percentile(cached_ms, 50)),
            "uncached_p50_ms": rounded(percentile(uncached_ms, 50)),
            "transitions": TRANSITIONS,
        },
    )


def time_ms(step: Callable[[], None]) -> float:
    """How long a call takes [ms]."""
    started_ns = time.perf_counter_ns()
    step()
    return (time.perf_counter_ns() - started_ns) / 1e6


def random_episode(spec: RobotSpec, length: int) -> EpisodeSlice:
    """Made-up play of the robot."""
    rng = np.random.default_rng(0)
    plain = spec.model_dump(mode="json")
    steps = [play_step(plain, rng, index) for index in range(length)]
    return EpisodeSlice(
        images={c.name: np.stack([s["images"][c.name] for s in steps]) for c in spec.cameras},
        state=np.stack([s["state"] for s in steps]),
        action=np.stack([s["action"] for s in steps]),
        t_ns=np.array([s["t_ns"] for s in steps], dtype=np.int64),
        instructions=tuple(str(s["instruction"]) for s in steps),
    )
