"""Websocket servers that say what a test tells them to, on a free port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from server.wire.codec import pack, unpack

METADATA = {"name": "selfalign"}


def act_reply(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A correct reply to an act request: two steps of the state it came with."""
    state = np.asarray(request["state"], np.float32)
    reply = {
        "actions": np.stack([state, state + 1]),
        "robot": request.get("robot") or "arm",
        "w_version": request.get("w_version") or 3,
        "w_sha256": "c" * 64,
        "base_sha256": "b" * 64,
        "dt_s": 0.1,
        "observed_at_s": request.get("observed_at_s"),
        "observation_seq": request.get("observation_seq"),
        "clamped_dims": [],
        "timing": {"queue_ms": 0.0, "encode_ms": 1.0, "inference_ms": 2.0, "total_ms": 3.0},
    }
    return reply | changes


@contextmanager
def websocket_server(talk: Callable[[ServerConnection], None], *, port: int = 0) -> Iterator[str]:
    """Serve every connection with `talk` in a thread of its own; yields the http address."""

    def handler(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            talk(connection)

    with serve(handler, "127.0.0.1", port, compression=None, close_timeout=0.2) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def send(connection: ServerConnection, message: object) -> None:
    connection.send(pack(message))


def receive(connection: ServerConnection) -> Any:
    message = connection.recv(timeout=30)
    assert isinstance(message, bytes)
    return unpack(message)
