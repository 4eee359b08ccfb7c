"""`POST /act` and the websocket `/act/stream`: observation in, chunk of actions out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.routing import APIRoute

from server.act_call import ActMessage
from server.act_desk import ActDesk
from server.body import read_body, reply_format, request_format, write
from server.direct_line import direct_line
from server.problems import status_of
from server.routes.info import describe
from server.routes.openapi import ACT_BODY, ACT_REPLIES
from server.routes.query import refuse_unknown
from server.wire.codec import pack

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

_QUERY: Final = ("robot",)


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
    line = direct_line(websocket)
    await line.serve(ActDesk(runtime, line, websocket.query_params.get("robot")).take)


async def _answer(runtime: Runtime, request: Request) -> Response:
    refuse_unknown(request, _QUERY)
    body_format = request_format(request)
    answer_format = reply_format(request, default=body_format)
    body = await read_body(request, runtime.settings.max_body_bytes)
    message = ActMessage(runtime, body, body_format, request.query_params.get("robot"))
    result = await runtime.engine.act(message.read)
    response = write(message.reply(result, answer_format), answer_format)
    runtime.metrics.count_act(200, "http", message.timing_ms)
    return response
