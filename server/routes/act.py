"""`POST /act` and the websocket `/act/stream`: observation in, chunk of actions out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response, WebSocket, WebSocketDisconnect

from server.act_call import ActMessage
from server.body import Format, read_body, reply_format, request_format, too_large, write
from server.problems import problem_of, status_of
from server.routes.info import describe
from server.routes.openapi import ACT_BODY, ACT_REPLIES
from server.wire.codec import dump_json, pack

if TYPE_CHECKING:
    from server.runtime import Runtime

logger = logging.getLogger(__name__)

router = APIRouter(tags=["act"])


@router.post(
    "/act",
    operation_id="act",
    summary="Observation in, chunk of actions out",
    response_class=Response,
    openapi_extra={"requestBody": ACT_BODY},
    responses=ACT_REPLIES,
)
async def act(request: Request) -> Response:
    """Answer one observation with the robot's active W.

    Send JSON or msgpack (`Content-Type`); the answer comes the same way, or as `Accept` says.
    Images are JPEG / PNG bytes or uint8 arrays. The reply names the W that made the whole chunk.
    """
    runtime: Runtime = request.app.state.runtime
    try:
        response = await _answer(runtime, request)
    except Exception as error:
        _count(runtime, status_of(error), "http")
        raise
    _count(runtime, 200, "http")
    return response


@router.websocket("/act/stream")
async def act_stream(websocket: WebSocket) -> None:
    """As `POST /act`, for many observations: binary frames are msgpack, text frames JSON.

    The first frame is the content of `/info` as msgpack. An error is answered as
    `{"error": problem}` and leaves the connection open.
    """
    runtime: Runtime = websocket.app.state.runtime
    await websocket.accept()
    await websocket.send_bytes(pack(describe(runtime)))
    robot = websocket.query_params.get("robot")
    try:
        while True:
            body, body_format = await receive_frame(websocket)
            answer = await _answer_frame(runtime, ActMessage(runtime, body, body_format, robot))
            await _send(websocket, answer, body_format)
    except WebSocketDisconnect:
        return


async def receive_frame(websocket: WebSocket) -> tuple[bytes, Format]:
    """The next message of a websocket: its bytes and how they are written.

    Raises:
        WebSocketDisconnect: the client has gone.
    """
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    binary = message.get("bytes")
    if binary is not None:
        return binary, "msgpack"
    return message["text"].encode(), "json"


async def _answer(runtime: Runtime, request: Request) -> Response:
    body_format = request_format(request)
    answer_format = reply_format(request, default=body_format)
    body = await read_body(request, runtime.settings.max_body_bytes)
    message = ActMessage(runtime, body, body_format, request.query_params.get("robot"))
    result = await runtime.engine.act(message.read)
    return write(message.reply(result, answer_format), answer_format)


async def _answer_frame(runtime: Runtime, message: ActMessage) -> Any:
    limit_bytes = runtime.settings.max_body_bytes
    try:
        if len(message.body) > limit_bytes:
            raise too_large(len(message.body), limit_bytes)
        result = await runtime.engine.act(message.read)
    except Exception as error:  # noqa: BLE001 - the one edge of this connection; logged there
        found = problem_of(error)
        _count(runtime, found.status, "websocket")
        return {"error": found.model_dump()}
    _count(runtime, 200, "websocket")
    return message.reply(result, message.body_format)


async def _send(websocket: WebSocket, answer: Any, body_format: Format) -> None:
    if body_format == "msgpack":
        await websocket.send_bytes(pack(answer))
    else:
        await websocket.send_text(dump_json(answer).decode())


def _count(runtime: Runtime, status: int, transport: str) -> None:
    runtime.metrics.act_requests.labels(str(status), transport).inc()
