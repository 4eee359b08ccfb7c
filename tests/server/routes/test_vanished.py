"""Clients that leave before they are answered: no error of ours, nothing in the log."""

import asyncio
from typing import Any

from starlette.websockets import WebSocket

from server.drain import Drain
from server.play_stream import PlayStream
from server.routes.openpi import openpi
from server.runtime import Runtime


class _App:
    def __init__(self, runtime: Runtime) -> None:
        self.state = type("State", (), {"runtime": runtime})()


def gone_after(runtime: Runtime, *sent: bytes, answers: int) -> WebSocket:
    """A websocket whose client sends these messages and takes so many answers, the handshake one.

    Uvicorn raises an OSError for what is sent after that.
    """
    messages: list[dict[str, Any]] = [{"type": "websocket.connect"}]
    messages += [{"type": "websocket.receive", "bytes": data} for data in sent]
    left = answers

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "websocket.disconnect", "code": 1006}

    async def send(_: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError

    scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": []}
    scope["app"] = _App(runtime)  # type: ignore[assignment]
    return WebSocket(scope, receive, send)  # type: ignore[arg-type]


def test_an_openpi_client_that_leaves_after_a_wrong_observation(runtime: Runtime) -> None:
    websocket = gone_after(runtime, b"\xc1", answers=2)
    asyncio.run(openpi(websocket))


def test_a_recorder_that_leaves_after_the_acknowledgement_failed(runtime: Runtime) -> None:
    # The first answer that cannot be sent closes the websocket; so does the second, differently.
    websocket = gone_after(runtime, answers=1)
    stream = PlayStream(websocket, runtime, Drain())

    async def serve() -> None:
        await websocket.accept()
        for _ in range(2):
            try:
                await stream._send({"type": "ack"})
            except Exception as error:  # noqa: BLE001 - its kind is what is tested
                kinds.append(type(error).__name__)

    kinds: list[str] = []
    asyncio.run(serve())
    assert kinds == ["WebSocketDisconnect", "WebSocketDisconnect"]
