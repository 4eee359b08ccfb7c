"""Recording play: how fast it can be taken in, and what it costs at 50 Hz.

Two 224x224 cameras, raw images. The rate is counted to the moment the episode is sealed on disk.
The cost is all processor time of the server and its processes over the time of the stream, less
what the same processes use when idle.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tests.benchmarks.figure import Figure, rounded
from tests.benchmarks.play_stream import PlayStream, pace, packed
from tests.benchmarks.robot import play_step, two_camera_spec
from tests.benchmarks.server_process import ServerProcess

ROBOT = "bench-play"
BURST_STEPS = 2000
BURSTS = 3
RATE_HZ = 50.0
PACED_S = 20.0
IDLE_S = 5.0
PICTURES = 64


def measure() -> Iterator[Figure]:
    """`play_steps_per_s` and `play_cpu_share_50hz`."""
    spec = two_camera_spec(ROBOT, rate_hz=RATE_HZ)
    rng = np.random.default_rng(0)
    pictures = [play_step(spec, rng, index) for index in range(PICTURES)]
    with ServerProcess() as server:
        server.post("/robots", spec)
        server.settle()
        before_s = server.cpu_s()
        rates = [burst(server, pictures) for _ in range(BURSTS)]
        cpu_ms = (server.cpu_s() - before_s) * 1e3 / (BURSTS * BURST_STEPS)
        yield Figure(
            "play_steps_per_s",
            float(np.median(rates)),
            "step/s",
            goal=300.0,
            better="higher",
            details={
                "cameras": "2x224x224",
                "steps": BURST_STEPS,
                "runs": [rounded(rate) for rate in rates],
                "cpu_ms_per_step": rounded(cpu_ms),
            },
        )
        shares, idle = paced_shares(server, pictures)
        yield Figure(
            "play_cpu_share_50hz",
            sum(shares.values()) - sum(idle.values()),
            "core",
            goal=0.10,
            details={
                "cameras": "2x224x224",
                "seconds": PACED_S,
                "by_process": {role: rounded(share) for role, share in shares.items()},
                "idle_share": rounded(sum(idle.values())),
            },
        )


def burst(server: ServerProcess, pictures: list[dict]) -> float:
    """Steps a second, from the first sent to the last one safe on disk."""
    started_s = time.perf_counter()
    stream = PlayStream(server.websocket_url, ROBOT)
    for index in range(BURST_STEPS):
        stream.send(packed(at(pictures, index)))
    stream.seal()
    seconds = time.perf_counter() - started_s
    if stream.sealed_length != BURST_STEPS:
        raise RuntimeError(f"{BURST_STEPS} steps were sent, {stream.sealed_length} were sealed")
    return BURST_STEPS / seconds


def paced_shares(
    server: ServerProcess, pictures: list[dict]
) -> tuple[dict[str, float], dict[str, float]]:
    """Cores that each process uses while play comes in at 50 Hz, and while nothing does."""
    server.settle()
    with shares(server) as idle:
        time.sleep(IDLE_S)
    stream = PlayStream(server.websocket_url, ROBOT)
    with shares(server) as busy:
        for index in pace(RATE_HZ, round(PACED_S * RATE_HZ)):
            stream.send(packed(at(pictures, index)))
        stream.seal()
    return busy, idle


@contextmanager
def shares(server: ServerProcess) -> Iterator[dict[str, float]]:
    """Fills a map with the share of a core that each process used in the block."""
    result: dict[str, float] = {}
    before_s, started_s = server.cpu_by_role_s(), time.perf_counter()
    yield result
    after_s, seconds = server.cpu_by_role_s(), time.perf_counter() - started_s
    result |= {role: (after_s[role] - before_s[role]) / seconds for role in before_s}


def at(pictures: list[dict], index: int) -> dict:
    """A step with the time stamp of its place in the episode."""
    return pictures[index % len(pictures)] | {"t_ns": round(index * 1e9 / RATE_HZ)}
