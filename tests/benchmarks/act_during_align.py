"""How much slower `/act` gets while W is being aligned: the ratio of its 99th percentiles.

A controller asks at a fixed rate over the websocket. Blocks with and without a running alignment
alternate, so that a slow minute of the machine falls on both; all calls of a kind are pooled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain

import numpy as np
from websockets.sync.client import ClientConnection, connect

from server.wire.codec import pack, unpack
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.play_stream import pace, record
from tests.benchmarks.robot import observation, play_step
from tests.benchmarks.server_process import ServerProcess

RATE_HZ = 25.0
BLOCK_S = 10.0
BLOCKS = 6
PLAY_STEPS = 256


def measure() -> Iterator[Figure]:
    """`act_p99_align_over_idle`."""
    idle: list[list[float]] = []
    aligning: list[list[float]] = []
    steps = 0
    with ServerProcess() as server:
        server.settle()
        spec = server.get("/info")["robots"][0]["spec"]
        rng = np.random.default_rng(0)
        play = [play_step(spec, rng, index) for index in range(PLAY_STEPS)]
        episode = record(server.websocket_url, spec["name"], play)
        body = pack(observation(spec, rng) | {"robot": spec["name"]})
        with connect(
            f"{server.websocket_url}/act/stream", compression=None, max_size=None
        ) as socket:
            socket.recv()
            controlled(socket, body, 2.0)
            for _ in range(BLOCKS):
                idle.append(controlled(socket, body, BLOCK_S))
                session = begin(server, episode)
                aligning.append(controlled(socket, body, BLOCK_S))
                ended = server.wait_for_session(session)
                steps += ended["step"]
                time.sleep(0.5)
    yield figure(idle, aligning, steps)


def figure(idle: list[list[float]], aligning: list[list[float]], steps: int) -> Figure:
    """The ratio, from what each call of each block took [ms]."""
    pooled = {"idle": list(chain(*idle)), "align": list(chain(*aligning))}
    p99 = {kind: percentile(took_ms, 99) for kind, took_ms in pooled.items()}
    pairs = [percentile(a, 99) / percentile(i, 99) for i, a in zip(idle, aligning, strict=True)]
    return Figure(
        "act_p99_align_over_idle",
        p99["align"] / p99["idle"],
        "ratio",
        goal=1.15,
        details={
            "idle_p99_ms": rounded(p99["idle"]),
            "align_p99_ms": rounded(p99["align"]),
            "idle_p50_ms": rounded(percentile(pooled["idle"], 50)),
            "align_p50_ms": rounded(percentile(pooled["align"], 50)),
            "median_of_pairs": rounded(float(np.median(pairs))),
            "calls": sum(map(len, pooled.values())),
            "rate_hz": RATE_HZ,
            "align_steps": steps,
        },
    )


def begin(server: ServerProcess, episode: str) -> str:
    """Start an alignment that outlasts a block and changes nothing; wait until it steps."""
    body = {
        "source": {"episodes": [episode]},
        "budget": {"seconds": BLOCK_S + 2},
        "promotion": "manual",
    }
    session: str = server.post("/align", body)["id"]
    deadline = time.monotonic() + 60
    while (state := server.get(f"/align/{session}"))["step"] < 1:
        if time.monotonic() > deadline or state["error"]:
            raise RuntimeError(f"the alignment does not step: {state}")
        time.sleep(0.05)
    return session


def controlled(socket: ClientConnection, body: bytes, seconds: float) -> list[float]:
    """Ask at the fixed rate for some time; how long each call took [ms]."""
    took_ms = []
    for _ in pace(RATE_HZ, round(seconds * RATE_HZ)):
        started_ns = time.perf_counter_ns()
        socket.send(body)
        reply = socket.recv()
        took_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
        assert isinstance(reply, bytes), f"the server answered with text: {reply[:200]}"
        assert "actions" in unpack(reply)
    return took_ms
