"""Streaming play over the websocket, as a robot does."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from websockets.sync.client import ClientConnection, connect

from server.wire.codec import pack, unpack


class PlayStream:
    """One episode on `WS /play`. Its own thread reads the answers, so sending never waits."""

    def __init__(self, websocket_url: str, robot: str) -> None:
        self._socket: ClientConnection = connect(
            f"{websocket_url}/play", compression=None, max_size=None
        )
        self.received = self.durable = 0
        self.sealed_length: int | None = None
        self._problem: dict[str, Any] | None = None
        self._sealed = threading.Event()
        self._socket.send(pack({"type": "start", "robot": robot}))
        started = _read(self._socket.recv())
        if started["type"] != "started":
            raise RuntimeError(f"play was refused: {started}")
        self.episode: str = started["episode"]
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def send(self, packed_step: bytes) -> None:
        """Send one step, packed by `packed`."""
        if self._problem is not None:
            raise RuntimeError(f"a play step was refused: {self._problem}")
        self._socket.send(packed_step)

    def seal(self, *, within_s: float = 120.0) -> None:
        """End the episode and wait until it is on disk."""
        self._socket.send(pack({"type": "end"}))
        if not self._sealed.wait(within_s) or self._problem is not None:
            raise RuntimeError(f"the episode was not sealed within {within_s} s: {self._problem}")
        self._socket.close()
        self._reader.join(timeout=10)

    def _listen(self) -> None:
        for message in self._socket:
            answer = _read(message)
            if answer["type"] == "ack":
                self.received, self.durable = answer["received"], answer["durable"]
            elif answer["type"] == "sealed":
                self.sealed_length = answer["length"]
                self._sealed.set()
                return
            elif answer["type"] == "error":
                self._problem = answer["problem"]
                self._sealed.set()
                return


def packed(step: dict[str, Any]) -> bytes:
    """One play step as the message that carries it."""
    return pack({"type": "step"} | step)


def record(websocket_url: str, robot: str, steps: list[dict[str, Any]]) -> str:
    """Stream whole steps and seal them; the episode's id."""
    stream = PlayStream(websocket_url, robot)
    for step in steps:
        stream.send(packed(step))
    stream.seal()
    return stream.episode


def pace(rate_hz: float, count: int) -> Any:
    """Yield 0, 1, ... `count` - 1 at a fixed rate."""
    start_s = time.monotonic()
    for index in range(count):
        wait_s = start_s + index / rate_hz - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        yield index


def _read(message: bytes | str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(message) if isinstance(message, str) else unpack(message)
    return answer
