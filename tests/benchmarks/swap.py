"""A thousand swaps of W while several controllers keep asking.

Two versions take turns. With a fixed seed each has its own known answer, so every reply can be
checked: did it come, and was it made by the version that it names?
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from websockets.sync.client import connect

from server.wire.codec import pack, unpack
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.play_stream import pace
from tests.benchmarks.robot import observation
from tests.benchmarks.served_model import load_served_policy, snapshot_near_base
from tests.benchmarks.server_process import ServerProcess

SWAPS = 1000
# Slow enough for some chunks to be made between two swaps.
SWAPS_HZ = 40.0
CONTROLLERS = 2
SEED = 7


@dataclass
class Tally:
    """What one controller saw."""

    replies: int = 0
    failed: int = 0
    mislabelled: int = 0
    versions: set[int] = field(default_factory=set)
    first_failure: str | None = None


def measure() -> Iterator[Figure]:
    """`swap_failed` and `swap_mislabelled`."""
    with ServerProcess() as server:
        server.settle()
        spec = server.get("/info")["robots"][0]["spec"]
        robot = spec["name"]
        seen = observation(spec, np.random.default_rng(0)) | {"robot": robot, "seed": SEED}
        versions = [upload(server, robot, seed) for seed in (1, 2)]
        answers = {version: reference(server, seen, version) for version in versions}
        if np.allclose(answers[versions[0]], answers[versions[1]], atol=1e-4):
            raise RuntimeError("the two versions act alike; mislabelling would not be seen")
        activate(server, robot, versions[0])

        tallies = [Tally() for _ in range(CONTROLLERS)]
        stop = threading.Event()
        threads = [
            threading.Thread(target=control, args=(server, pack(seen), answers, tally, stop))
            for tally in tallies
        ]
        for thread in threads:
            thread.start()
        swaps = [
            activate(server, robot, versions[(turn + 1) % 2]) for turn in pace(SWAPS_HZ, SWAPS)
        ]
        stop.set()
        for thread in threads:
            thread.join()
    yield from report(swaps, tallies)


def report(swaps: list[tuple[bool, float]], tallies: list[Tally]) -> Iterator[Figure]:
    """The figures of one run."""
    refused = sum(not done for done, _ in swaps)
    request_ms = [took_ms for _, took_ms in swaps]
    replies = sum(tally.replies for tally in tallies)
    failures = [tally.first_failure for tally in tallies if tally.first_failure]
    yield Figure(
        "swap_failed",
        refused + sum(tally.failed for tally in tallies),
        "count",
        goal=0,
        details={
            "swaps": len(swaps),
            "act_replies": replies,
            "first_failures": failures,
            "request_p50_ms": rounded(percentile(request_ms, 50)),
            "request_p99_ms": rounded(percentile(request_ms, 99)),
        },
    )
    yield Figure(
        "swap_mislabelled",
        sum(tally.mislabelled for tally in tallies),
        "count",
        goal=0,
        details={"act_replies": replies, "versions_seen": sorted(seen_by(tallies))},
    )


def seen_by(tallies: list[Tally]) -> set[int]:
    """All versions that answered."""
    return set().union(*(tally.versions for tally in tallies))


def control(
    server: ServerProcess,
    body: bytes,
    answers: dict[int, np.ndarray],
    tally: Tally,
    stop: threading.Event,
) -> None:
    """Ask again and again and check each reply."""
    with connect(f"{server.websocket_url}/act/stream", compression=None, max_size=None) as socket:
        socket.recv()
        while not stop.is_set():
            socket.send(body)
            message = socket.recv()
            reply = unpack(message) if isinstance(message, bytes) else {"error": message}
            tally.replies += 1
            if "actions" not in reply:
                tally.failed += 1
                tally.first_failure = tally.first_failure or str(reply)[:300]
                continue
            version = reply["w_version"]
            tally.versions.add(version)
            expected = answers.get(version)
            if expected is None or not np.allclose(reply["actions"], expected, atol=1e-5):
                tally.mislabelled += 1


def activate(server: ServerProcess, robot: str, version: int) -> tuple[bool, float]:
    """Swap to a version: whether it was done, and how long the request took [ms]."""
    started_s = time.perf_counter()
    reply = server.http.post(f"/w/{version}/activate", params={"robot": robot})
    took_ms = (time.perf_counter() - started_s) * 1e3
    return reply.is_success and reply.json()["active"] == version, took_ms


def reference(server: ServerProcess, seen: dict[str, object], version: int) -> np.ndarray:
    """The answer of one version."""
    with connect(f"{server.websocket_url}/act/stream", compression=None, max_size=None) as socket:
        socket.recv()
        socket.send(pack(seen | {"w_version": version}))
        reply = unpack(socket.recv())
    if "actions" not in reply or reply["w_version"] != version:
        raise RuntimeError(f"version {version} did not answer: {reply}")
    return np.array(reply["actions"])


def upload(server: ServerProcess, robot: str, seed: int) -> int:
    """A W near the base, uploaded; its version."""
    reply = server.http.post(
        "/w",
        params={"robot": robot},
        content=snapshot_near_base(load_served_policy(), robot, seed),
        headers={"content-type": "application/vnd.safetensors"},
    )
    if reply.is_error:
        raise RuntimeError(f"the upload was refused: {reply.status_code}: {reply.text[:300]}")
    return int(reply.json()["version"])
