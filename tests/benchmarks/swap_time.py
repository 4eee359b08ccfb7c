"""How long a swap of W keeps a reader waiting: the registry's own time of the assignment.

The registry runs in this process, beside a thread that evaluates the policy without pause as the
server's inference thread does under load: what can make a swap slow is the interpreter's lock. The
whole activation, which also writes the index to disk before it swaps, is reported beside it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from selfalign.align.robot_io import RobotIO
from selfalign.data.spec import RobotSpec
from selfalign.model.policy import Policy
from server.engine import blank_observation
from server.registry import Registry, SwapEvent
from server.settings import shipped_specs
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.served_model import load_served_policy, snapshot_near_base

SWAPS = 1000


def measure() -> Iterator[Figure]:
    """`swap_p99_us`."""
    torch.set_num_threads(1)
    policy = load_served_policy()
    spec = RobotSpec.from_file(shipped_specs()[0])
    events: list[SwapEvent] = []
    took_ms = []
    with tempfile.TemporaryDirectory(prefix="selfalign-bench-") as folder:
        registry = Registry(Path(folder), policy.base_w(), policy.base_sha256, keep_resident=3)
        registry.add_robot(spec)
        registry.subscribe(events.append)
        versions = [
            registry.add_candidate(spec.name, snapshot_near_base(policy, spec.name, seed)).version
            for seed in (1, 2)
        ]
        with reader(registry, policy, spec) as served:
            for turn in range(SWAPS):
                started_ns = time.perf_counter_ns()
                registry.activate(spec.name, versions[turn % 2])
                took_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
    swap_us = [event.swap_ns / 1e3 for event in events]
    if len(swap_us) != SWAPS:
        raise RuntimeError(f"{SWAPS} swaps were made, {len(swap_us)} were told to subscribers")
    yield Figure(
        "swap_p99_us",
        percentile(swap_us, 99),
        "us",
        goal=1000,
        details={
            "p50_us": rounded(percentile(swap_us, 50)),
            "max_us": rounded(float(np.max(swap_us))),
            "swaps": SWAPS,
            "evaluations_meanwhile": len(served),
            "activation_p50_ms": rounded(percentile(took_ms, 50)),
            "activation_p99_ms": rounded(percentile(took_ms, 99)),
        },
    )


@contextmanager
def reader(registry: Registry, policy: Policy, spec: RobotSpec) -> Iterator[list[int]]:
    """Evaluate the policy with the active W in a thread, until the block is left.

    Yields:
        The versions that were served, one an evaluation.
    """
    io = RobotIO(policy, spec)
    observation = blank_observation(spec)
    served: list[int] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            bundle = registry.active(spec.name)
            io.act([observation], bundle.w, seed=0)
            served.append(bundle.version)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield served
    finally:
        stop.set()
        thread.join()
