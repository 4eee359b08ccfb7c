"""Resident memory after real use: some thousand calls, an episode of play, an alignment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from websockets.sync.client import connect

from server.wire.codec import pack
from tests.benchmarks.figure import Figure, rounded
from tests.benchmarks.play_stream import record
from tests.benchmarks.robot import observation, play_step
from tests.benchmarks.server_process import ServerProcess

CALLS = 2000
PLAY_STEPS = 256
MEGABYTE = 1e6


def measure() -> Iterator[Figure]:
    """`server_rss_mb` and `worker_rss_mb`."""
    with ServerProcess() as server:
        spec = server.get("/info")["robots"][0]["spec"]
        rng = np.random.default_rng(0)
        before = server.processes()["server"].memory_info().rss
        play = [play_step(spec, rng, index) for index in range(PLAY_STEPS)]
        episode = record(server.websocket_url, spec["name"], play)
        body = pack(observation(spec, rng) | {"robot": spec["name"]})
        with connect(
            f"{server.websocket_url}/act/stream", compression=None, max_size=None
        ) as socket:
            socket.recv()
            for _ in range(CALLS):
                socket.send(body)
                socket.recv()
        session = server.post(
            "/align", {"source": {"episodes": [episode]}, "budget": {"steps": 50}}
        )["id"]
        server.wait_for_session(session)
        processes = server.processes()
        if "worker" not in processes:
            raise RuntimeError(f"no align worker among the server's processes: {processes}")
        rss = {name: process.memory_info().rss for name, process in processes.items()}
        proportional = {name: process.memory_full_info().pss for name, process in processes.items()}
    for role in ("server", "worker"):
        details: dict[str, object] = {"pss_mb": rounded(proportional[role] / MEGABYTE)}
        if role == "server":
            details |= {"at_start_mb": rounded(before / MEGABYTE), "calls": CALLS}
        yield Figure(f"{role}_rss_mb", rss[role] / MEGABYTE, "MB", details=details)
    if "recorder" in rss:
        yield Figure("recorder_rss_mb", rss["recorder"] / MEGABYTE, "MB")
