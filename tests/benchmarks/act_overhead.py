"""What the server adds to the model: a served call minus the bare forward, call by call.

Calls alternate (bare, websocket, bare, HTTP), so whatever else the machine does hits both sides
alike; a figure is the median of the paired differences. Everything on the way counts: reading the
message, checking and encoding the observation, waiting for the policy, safety, writing the reply.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
from websockets.sync.client import connect

from server.wire.codec import MSGPACK_MEDIA_TYPE, pack, unpack
from tests.benchmarks.bare_forward import BareForward
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.robot import observation
from tests.benchmarks.server_process import ServerProcess

ROUNDS = 300
WARM_UP = 30


def measure() -> Iterator[Figure]:
    """`act_ws_overhead_p50_ms` and `act_http_overhead_p50_ms`."""
    with ServerProcess() as server:
        server.settle()
        spec = server.get("/info")["robots"][0]["spec"]
        seen = observation(spec, np.random.default_rng(0))
        body = pack(seen | {"robot": spec["name"]})
        bare = BareForward(spec, seen)
        with connect(
            f"{server.websocket_url}/act/stream", compression=None, max_size=None
        ) as socket:
            socket.recv()

            def by_websocket() -> bytes | str:
                socket.send(body)
                return socket.recv()

            def by_http() -> bytes:
                return post(server.http, body)

            pairs = alternate(bare.time_ms, {"ws": by_websocket, "http": by_http})
    for transport, goal_ms in (("ws", 1.0), ("http", 3.0)):
        bare_ms, served_ms, model_ms = pairs[transport].T
        yield Figure(
            f"act_{transport}_overhead_p50_ms",
            percentile(list(served_ms - bare_ms), 50),
            "ms",
            goal=goal_ms,
            details={
                "bare_p50_ms": rounded(percentile(list(bare_ms), 50)),
                "served_p50_ms": rounded(percentile(list(served_ms), 50)),
                "beside_own_inference_p50_ms": rounded(percentile(list(served_ms - model_ms), 50)),
                "calls": len(bare_ms),
                "body_bytes": len(body),
            },
        )


def post(http: httpx.Client, body: bytes) -> bytes:
    """`POST /act` of a msgpack body."""
    reply = http.post(
        "/act",
        content=body,
        headers={"content-type": MSGPACK_MEDIA_TYPE, "accept": MSGPACK_MEDIA_TYPE},
    )
    return reply.raise_for_status().content


def alternate(
    bare_ms: Callable[[], float], transports: dict[str, Callable[[], bytes | str]]
) -> dict[str, np.ndarray]:
    """For each transport `[ROUNDS, 3]`: bare, served, the server's own inference [ms]."""
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in transports}
    for turn in range(WARM_UP + ROUNDS):
        for name, call in transports.items():
            alone_ms = bare_ms()
            started_ns = time.perf_counter_ns()
            reply = call()
            served_ms = (time.perf_counter_ns() - started_ns) / 1e6
            assert isinstance(reply, bytes), f"the server answered with text: {reply[:200]}"
            if turn >= WARM_UP:
                own_ms = unpack(reply)["timing"]["inference_ms"]
                rows[name].append((alone_ms, served_ms, own_ms))
    return {name: np.array(values) for name, values in rows.items()}
