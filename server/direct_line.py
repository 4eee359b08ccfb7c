"""A websocket that is answered message by message, without a coroutine between network and answer.

Between two forwards of the policy everything else has left the caches, so each layer that a
message passes costs far more than its work. On the way that ASGI has, a message passes a queue and
a task when it comes, and a task, the framework and its middleware when it is answered. A direct
line calls a function for each message and takes the answer by a function.

`DirectProtocol` is uvicorn's websocket with such a line, which a route finds in its scope. Under
another ASGI server `Relay` does the same by ASGI's own way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, final

from fastapi import WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import WebSocket

    from server.body import Format

_EXTENSION: Final = "selfalign.direct"


class DirectLine(Protocol):
    """One client's messages and their answers; everything happens on the event loop."""

    async def serve(self, take: Callable[[bytes, Format], None]) -> None:
        """Hand every message to `take`, which must not raise, until the client has gone.

        The next message is handed over once the one before it was answered.
        """

    def answer(self, data: bytes, data_format: Format) -> bool:
        """Answer the message that was handed over last. False if the client has gone."""


def direct_line(websocket: WebSocket) -> DirectLine:
    """The line of an accepted websocket."""
    found: DirectLine | None = websocket.scope.get("extensions", {}).get(_EXTENSION)
    return Relay(websocket) if found is None else found


async def receive_frame(websocket: WebSocket) -> tuple[bytes, Format]:
    """The next message of a websocket: its bytes and how they are written.

    Raises:
        WebSocketDisconnect: the client has gone.
    """
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    return _content(message)


@final
class DirectProtocol(WebSocketsSansIOProtocol):
    """uvicorn's websocket, on which a route may open a direct line."""

    _take: Callable[[bytes, Format], None] | None = None
    _is_answering = False
    _is_handing_over = False

    async def run_asgi(self) -> None:
        """Call the application, which finds the line in its scope."""
        self._waiting: deque[tuple[bytes, Format]] = deque()
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {**scope.get("extensions", {}), _EXTENSION: self}
        await super().run_asgi()

    async def serve(self, take: Callable[[bytes, Format], None]) -> None:
        """As `DirectLine`."""
        self._take = take
        # What came before.
        while not self.queue.empty():
            event = self.queue.get_nowait()
            if event["type"] == "websocket.disconnect":
                self._take = None
                return
            self._waiting.append(_content(event))
        self._hand_over()
        while (await self.queue.get())["type"] != "websocket.disconnect":
            continue
        self._take = None

    def answer(self, data: bytes, data_format: Format) -> bool:
        """As `DirectLine`."""
        self._is_answering = False
        if self.disconnected or self.close_sent or self.transport.is_closing():
            return False
        try:
            if data_format == "msgpack":
                self.conn.send_binary(data)
            else:
                self.conn.send_text(data)
        except InvalidState:
            return False
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._hand_over()
        return True

    def send_receive_event_to_app(self) -> None:
        """A whole message has come."""
        if self._take is None or self.close_sent or not self._is_sound():
            super().send_receive_event_to_app()
            return
        data = b"".join(self.frames)
        self.frames = []
        self._waiting.append((data, "json" if self.curr_msg_data_type == "text" else "msgpack"))
        self._hand_over()
        if self._waiting and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads its answers again."""
        super().resume_writing()
        self._hand_over()

    def _is_sound(self) -> bool:
        """Whether a text is UTF-8; uvicorn ends the connection of one that is not."""
        if self.curr_msg_data_type == "bytes":
            return True
        try:
            b"".join(self.frames).decode()
        except UnicodeDecodeError:
            return False
        return True

    def _hand_over(self) -> None:
        if self._is_handing_over:
            # Answered at once: the loop below goes on.
            return
        self._is_handing_over = True
        try:
            while self._take is not None and self._waiting and self._may_go_on():
                self._is_answering = True
                self._take(*self._waiting.popleft())
        finally:
            self._is_handing_over = False
        if self.read_paused and self._take is not None and not self._waiting:
            self.read_paused = False
            self.transport.resume_reading()

    def _may_go_on(self) -> bool:
        return not self._is_answering and self.writable.is_set()


@final
class Relay:
    """A direct line over whatever ASGI server there is."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._answer: asyncio.Future[tuple[bytes, Format]] | None = None

    async def serve(self, take: Callable[[bytes, Format], None]) -> None:
        """As `DirectLine`."""
        loop = asyncio.get_running_loop()
        with suppress(WebSocketDisconnect):
            while True:
                message = await receive_frame(self._websocket)
                self._answer = loop.create_future()
                take(*message)
                data, data_format = await self._answer
                if data_format == "msgpack":
                    await self._websocket.send_bytes(data)
                else:
                    await self._websocket.send_text(data.decode())

    def answer(self, data: bytes, data_format: Format) -> bool:
        """As `DirectLine`."""
        if self._answer is None or self._answer.done():
            return False
        self._answer.set_result((data, data_format))
        return True


def _content(message: Any) -> tuple[bytes, Format]:
    binary = message.get("bytes")
    if binary is not None:
        return binary, "msgpack"
    return message["text"].encode(), "json"
