"""One connection of the websocket `/play`.

The connection owns its episode: when it ends, in whatever way, the episode is sealed. A refused
message is answered with an error and leaves the connection open; a connection that has been silent
for too long is closed, and told so.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, final

from fastapi import WebSocketDisconnect
from starlette.websockets import WebSocketState

from selfalign.errors import SelfAlignError
from server.body import Format, parse, too_large
from server.episode import Episode, PlayError
from server.play_steps import as_bad_step, is_cheap, read_step
from server.problems import ProblemError, problem_of
from server.wire.codec import dump_json, pack
from server.wire.messages import (
    PlayEnd,
    PlayStart,
    PlayStepMessage,
    PlaySync,
    read_play_message,
)
from server.wire.problems import WireError

if TYPE_CHECKING:
    from fastapi import WebSocket

    from server.drain import Drain
    from server.runtime import Runtime

_SILENT: Final = 4408
_GOING_AWAY: Final = 1001
_ACK_POLL_S = 5.0


@final
class PlayStream:
    """Talks with one client. `run` returns when the connection is over."""

    def __init__(self, websocket: WebSocket, runtime: Runtime, drain: Drain) -> None:
        self._websocket = websocket
        self._runtime = runtime
        self._ingest = runtime.ingest
        self._drain = drain
        self._format: Format = "msgpack"
        self._episode: Episode | None = None
        self._sending = asyncio.Lock()
        self._acknowledged = 0
        # The time limit of the message that is waited for.
        self._patience: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Serve the connection until either side ends it."""
        await self._websocket.accept()
        acknowledge: asyncio.Task[None] | None = None
        stopping = asyncio.ensure_future(self._drain.wait())
        stopping.add_done_callback(self._hurry)
        try:
            while True:
                frame = await self._next_frame()
                if frame is None:
                    return
                episode = self._episode
                await self._answer(*frame)
                if self._episode is not episode and self._episode is not None:
                    if acknowledge is not None:
                        acknowledge.cancel()
                    acknowledge = asyncio.create_task(self._acknowledge(self._episode))
        except WebSocketDisconnect:
            return
        finally:
            stopping.cancel()
            if acknowledge is not None:
                acknowledge.cancel()
            if self._episode is not None:
                self._ingest.end(self._episode)

    async def _next_frame(self) -> tuple[bytes, Format] | None:
        """The next message; None after closing, since the client is silent or the server stops."""
        idle_s = self._ingest.config.idle_s
        try:
            async with asyncio.timeout(0 if self._drain.is_set else idle_s) as self._patience:
                return _frame_of(await self._websocket.receive())
        except TimeoutError:
            pass
        finally:
            self._patience = None
        if self._drain.is_set:
            await self._say_goodbye(_GOING_AWAY, "not-ready", "the server is stopping")
        else:
            await self._say_goodbye(
                _SILENT, "episode-sealed", f"no message for {idle_s:g} s; connect again to go on"
            )
        return None

    def _hurry(self, _: object) -> None:
        """The server stops: wait for the client no longer."""
        if self._patience is not None and self._drain.is_set:
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def _say_goodbye(self, close_code: int, code: str, detail: str) -> None:
        if self._episode is not None:
            self._ingest.end(self._episode)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._send_problem(ProblemError(code, detail))
            await self._websocket.close(close_code, detail)

    async def _answer(self, body: bytes, body_format: Format) -> None:
        self._format = body_format
        try:
            await self._handle(body, body_format)
        except (WireError, SelfAlignError) as error:
            await self._send_problem(as_bad_step(error))

    async def _handle(self, body: bytes, body_format: Format) -> None:
        limit_bytes = self._runtime.settings.max_body_bytes
        if len(body) > limit_bytes:
            raise too_large(len(body), limit_bytes)
        if body_format == "msgpack":
            value = parse(body, body_format)
        else:
            value = await asyncio.to_thread(parse, body, body_format)
        match read_play_message(value):
            case PlayStepMessage() as sent:
                await self._take(sent)
            case PlayStart(robot=robot, meta=meta):
                await self._begin(robot, meta)
            case PlaySync():
                episode = self._require_episode()
                await self._ingest.sync(episode)
                await self._send_ack(episode)
            case PlayEnd():
                await self._end()

    async def _begin(self, robot: str | None, meta: dict[str, Any]) -> None:
        if self._episode is not None and self._episode.is_open:
            raise PlayError(
                "play-busy", 409, f"this connection records {self._episode.id}; send end first"
            )
        episode = await self._ingest.begin(self._runtime.spec(robot), meta)
        self._episode = episode
        self._acknowledged = 0
        await self._send({"type": "started", "episode": episode.id})

    async def _take(self, sent: PlayStepMessage) -> None:
        episode = self._require_episode()
        if is_cheap(sent):
            step = read_step(sent, episode.spec)
        else:
            step = await asyncio.to_thread(read_step, sent, episode.spec)
        await self._ingest.add(episode, step)

    async def _end(self) -> None:
        episode = self._require_episode()
        self._ingest.end(episode)
        length = await self._ingest.sealed(episode)
        self._episode = None
        await self._send({"type": "sealed", "episode": episode.id, "length": length})

    def _require_episode(self) -> Episode:
        if self._episode is None:
            raise WireError("bad-message", 'no episode is begun; send {"type": "start"} first')
        return self._episode

    async def _acknowledge(self, episode: Episode) -> None:
        """Tell the client how far its play is durable, as it becomes so."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while episode.is_open:
                if not await self._ingest.watch(episode, self._acknowledged, _ACK_POLL_S):
                    continue
                if episode.durable > self._acknowledged:
                    await self._send_ack(episode)
            if episode.error is not None:
                await self._send_problem(episode.error)

    async def _send_ack(self, episode: Episode) -> None:
        self._acknowledged = episode.durable
        await self._send(
            {
                "type": "ack",
                "episode": episode.id,
                "received": episode.received,
                "durable": episode.durable,
            }
        )

    async def _send_problem(self, error: Exception) -> None:
        await self._send({"type": "error", "problem": problem_of(error).model_dump()})

    async def _send(self, value: dict[str, Any]) -> None:
        async with self._sending:
            if self._websocket.application_state is not WebSocketState.CONNECTED:
                # An acknowledgement has found out meanwhile; starlette raises anything but this.
                raise WebSocketDisconnect(1006)
            if self._format == "msgpack":
                await self._websocket.send_bytes(pack(value))
            else:
                await self._websocket.send_text(dump_json(value).decode())


def _frame_of(message: Any) -> tuple[bytes, Format]:
    """The content of a message. Raises WebSocketDisconnect."""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    binary = message.get("bytes")
    if binary is not None:
        return binary, "msgpack"
    return message["text"].encode(), "json"
