"""`POST /act` and the websocket `/act/stream`: observation in, chunk of actions out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from fastapi import APIRouter, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.routing import APIRoute

from server.act_call import ActMessage
from server.body import Format, read_body, reply_format, request_format, too_large, write
from server.problems import problem_of, status_of
from server.routes.info import describe
from server.routes.openapi import ACT_BODY, ACT_REPLIES
from server.wire.codec import dump_json, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from server.runtime import Runtime


@final
class _PlainRoute(APIRoute):
    """A route that is documented as any other, but called with the request and nothing else.

    What FastAPI does between (dependencies, validation, a response model) takes longer than all
    of ours.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function of the route itself."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter(tags=["act"], route_class=_PlainRoute)


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
        return await _answer(runtime, request)
    except Exception as error:
        runtime.metrics.count_act(status_of(error), "http")
        raise


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
            message = ActMessage(runtime, body, body_format, robot)
            answer, status = await _answer_frame(runtime, message)
            await _send(websocket, answer, body_format)
            runtime.metrics.count_act(status, "websocket", message.timing_ms)
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
    response = write(message.reply(result, answer_format), answer_format)
    runtime.metrics.count_act(200, "http", message.timing_ms)
    return response


async def _answer_frame(runtime: Runtime, message: ActMessage) -> tuple[Any, int]:
    """The answer to one frame, and its HTTP status."""
    limit_bytes = runtime.settings.max_body_bytes
    try:
        if len(message.body) > limit_bytes:
            raise too_large(len(message.body), limit_bytes)
        result = await runtime.engine.act(message.read)
    except Exception as error:  # noqa: BLE001 - the one edge of this connection; logged there
        found = problem_of(error)
        return {"error": found.model_dump()}, found.status
    return message.reply(result, message.body_format), 200


async def _send(websocket: WebSocket, answer: Any, body_format: Format) -> None:
    if body_format == "msgpack":
        await websocket.send_bytes(pack(answer))
    else:
        await websocket.send_text(dump_json(answer).decode())
