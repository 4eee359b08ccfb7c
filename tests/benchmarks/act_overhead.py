"""What the server adds to the model: a served call minus the bare forward, call by call.

The bare forward is the policy's prefix and its chunk, from tensors that are ready, on one thread:
the same weights and the same code as the server's, in this process. Everything else of a call is
overhead: the client, the network, reading the message, checking the observation, making tensors of
it, waiting for the inference thread, units and limits of the actions, writing the reply.

Calls alternate (bare, websocket, bare, HTTP), so whatever else the machine does hits both sides
alike, and either forward runs after as long a wait, with caches as cold. They go through the
connections of our own client, from the packed request to the packed reply. A figure is the median
of the paired differences. The details say where the time goes, as medians: the stages that the
server states, what it states none for (`between`: from one thread to the other and back), and what
lies outside of it (`outside`: the client, the network, the server's protocol).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from client.endpoint import Endpoint
from client.post_connection import PostConnection
from client.websocket_connection import WebSocketConnection
from server.wire.codec import MSGPACK_MEDIA_TYPE, pack, unpack
from tests.benchmarks.bare_forward import BareForward
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.robot import observation
from tests.benchmarks.server_process import ServerProcess

STAGES = ("queue", "encode", "inference", "safety", "total")
ROUNDS = 300
WARM_UP = 30
_PATIENCE_S = 60.0
_HEADERS = {"content-type": MSGPACK_MEDIA_TYPE, "accept": MSGPACK_MEDIA_TYPE}


def measure() -> Iterator[Figure]:
    """`act_ws_overhead_p50_ms` and `act_http_overhead_p50_ms`."""
    with ServerProcess() as server:
        server.settle()
        spec = server.get("/info")["robots"][0]["spec"]
        seen = observation(spec, np.random.default_rng(0))
        body = pack(seen | {"robot": spec["name"]})
        bare = BareForward(spec, seen)
        socket = WebSocketConnection(
            f"{server.websocket_url}/act/stream", max_size=2**20, open_timeout_s=_PATIENCE_S
        )
        socket.receive(_PATIENCE_S)
        posts = PostConnection(Endpoint(str(server.http.base_url)), "/act", _HEADERS)

        def by_websocket() -> bytes | str:
            socket.send(body)
            return socket.receive(_PATIENCE_S)

        def by_http() -> bytes:
            return posts.post(body)[1]

        pairs = alternate(bare.time_ms, {"ws": by_websocket, "http": by_http})
        socket.close()
        posts.close()
    for transport, goal_ms in (("ws", 1.0), ("http", 3.0)):
        bare_ms, served_ms, *stages_ms = pairs[transport].T
        own = dict(zip(STAGES, stages_ms, strict=True))
        yield Figure(
            f"act_{transport}_overhead_p50_ms",
            percentile(list(served_ms - bare_ms), 50),
            "ms",
            goal=goal_ms,
            details={
                "bare_p50_ms": rounded(percentile(list(bare_ms), 50)),
                "served_p50_ms": rounded(percentile(list(served_ms), 50)),
                "stages_p50_ms": stages(bare_ms, served_ms, own),
                "calls": len(bare_ms),
                "body_bytes": len(body),
            },
        )


def stages(
    bare_ms: np.ndarray, served_ms: np.ndarray, own_ms: dict[str, np.ndarray]
) -> dict[str, float]:
    """Where a call's time went, the bare forward left out: medians [ms]."""
    between_ms = own_ms["total"] - sum(own_ms[name] for name in STAGES[:-1])
    parts = {
        "queue": own_ms["queue"],
        "encode": own_ms["encode"],
        "inference_over_bare": own_ms["inference"] - bare_ms,
        "safety": own_ms["safety"],
        "between": between_ms,
        "outside": served_ms - own_ms["total"],
    }
    return {name: rounded(percentile(list(values), 50)) for name, values in parts.items()}


def alternate(
    bare_ms: Callable[[], float], transports: dict[str, Callable[[], bytes | str]]
) -> dict[str, np.ndarray]:
    """For each transport `[ROUNDS, 2 + stages]`: bare, served, the server's own stages [ms]."""
    rows: dict[str, list[list[float]]] = {name: [] for name in transports}
    for turn in range(WARM_UP + ROUNDS):
        for name, call in transports.items():
            alone_ms = bare_ms()
            started_ns = time.perf_counter_ns()
            reply = call()
            served_ms = (time.perf_counter_ns() - started_ns) / 1e6
            assert isinstance(reply, bytes), f"the server answered with text: {reply[:200]}"
            if turn >= WARM_UP:
                timing = unpack(reply)["timing"]
                own_ms = [timing[f"{stage}_ms"] for stage in STAGES]
                rows[name].append([alone_ms, served_ms, *own_ms])
    return {name: np.array(values) for name, values in rows.items()}
