"""A thousand swaps of W while several controllers keep asking.

Two versions take turns. With a fixed seed each has its own known answer, so every reply can be
checked: did it come, and was it made by the version that it names? A swap is timed by the server,
from having the verified W in hand to serving it; the time of the whole request stands beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from websockets.sync.client import connect

from selfalign.align.snapshot import SnapshotMeta, encode_snapshot
from server.wire.codec import pack, unpack
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.robot import observation
from tests.benchmarks.served_model import load_served_policy
from tests.benchmarks.server_process import ServerProcess

SWAPS = 1000
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
    """`swap_failed`, `swap_mislabelled` and `swap_p99_us`."""
    with ServerProcess() as server:
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
        swaps = [activate(server, robot, versions[(turn + 1) % 2]) for turn in range(SWAPS)]
        stop.set()
        for thread in threads:
            thread.join()
    yield from report(swaps, tallies)


def report(swaps: list[tuple[bool, float, float | None]], tallies: list[Tally]) -> Iterator[Figure]:
    """The figures of one run."""
    refused = sum(not done for done, _, _ in swaps)
    replies = sum(tally.replies for tally in tallies)
    failures = [tally.first_failure for tally in tallies if tally.first_failure]
    yield Figure(
        "swap_failed",
        refused + sum(tally.failed for tally in tallies),
        "count",
        goal=0,
        details={"swaps": len(swaps), "act_replies": replies, "first_failures": failures},
    )
    yield Figure(
        "swap_mislabelled",
        sum(tally.mislabelled for tally in tallies),
        "count",
        goal=0,
        details={"act_replies": replies, "versions_seen": sorted(seen_by(tallies))},
    )
    timed_us = [swap_us for _, _, swap_us in swaps if swap_us is not None]
    if len(timed_us) != len(swaps):
        raise RuntimeError(f"the server timed {len(timed_us)} of {len(swaps)} swaps (`swap_us`)")
    request_ms = [request for _, request, _ in swaps]
    yield Figure(
        "swap_p99_us",
        percentile(timed_us, 99),
        "us",
        goal=1000,
        details={
            "p50_us": rounded(percentile(timed_us, 50)),
            "max_us": rounded(max(timed_us)),
            "request_p50_ms": rounded(percentile(request_ms, 50)),
            "request_p99_ms": rounded(percentile(request_ms, 99)),
        },
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


def activate(server: ServerProcess, robot: str, version: int) -> tuple[bool, float, float | None]:
    """Swap to a version: whether it was done, the time of the request [ms], of the swap [us]."""
    started_s = time.perf_counter()
    reply = server.http.post(f"/w/{version}/activate", params={"robot": robot})
    took_ms = (time.perf_counter() - started_s) * 1e3
    if reply.is_error:
        return False, took_ms, None
    body = reply.json()
    return body["active"] == version, took_ms, body.get("swap_us")


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
    policy = load_served_policy()
    generator = torch.Generator().manual_seed(seed)
    w = policy.base_w().map(lambda x: x + 0.05 * torch.randn(x.shape, generator=generator))
    meta = SnapshotMeta(
        version=0,
        parent=0,
        robot=robot,
        base_sha256=policy.base_sha256,
        session=None,
        created_at="2026-01-01T00:00:00+00:00",
        steps=0,
        play_steps=0,
        metrics={},
        note="benchmark",
    )
    reply = server.http.post(
        "/w",
        params={"robot": robot},
        content=encode_snapshot(w, meta),
        headers={"content-type": "application/vnd.safetensors"},
    )
    if reply.is_error:
        raise RuntimeError(f"the upload was refused: {reply.status_code}: {reply.text[:300]}")
    return int(reply.json()["version"])
