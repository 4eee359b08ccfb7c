"""`/align`: improve W on play."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from selfalign.errors import SelfAlignError
from server.body import parse, read_body, reply, request_format
from server.events import parse_event_id, server_sent
from server.head import is_head
from server.problems import ProblemError
from server.routes.openapi import problems, reply_body, request_body
from server.routes.query import KnownQueryRoute
from server.wire.messages import read_request
from server.wire.operator import DEFAULT_STEPS, AlignList, AlignRequest, AlignSession
from server.wire.problems import MAKE_ROOM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.drain import Drain
    from server.events import EventLog
    from server.runtime import Runtime

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/align", tags=["align"], route_class=KnownQueryRoute)

_MAX_REQUEST_BYTES = 2**18
_EXAMPLE: Final[dict[str, Any]] = {
    "robot": "panda",
    "source": "live",
    "budget": {"steps": DEFAULT_STEPS},
    "promotion": "auto",
    "note": "after the camera was moved",
}


@router.post(
    "",
    operation_id="align",
    summary="Start to improve W on play",
    status_code=202,
    response_class=Response,
    openapi_extra={"requestBody": {**request_body(AlignRequest, _EXAMPLE), "required": False}},
    responses={
        202: {
            **reply_body(AlignSession, "The session has begun; `Location` is where to follow it"),
            "links": {
                "session": {
                    "operationId": "get_align",
                    "parameters": {"session": "$response.body#/id"},
                }
            },
        },
        **problems(
            "bad-message",
            "bad-request",
            "unknown-robot",
            "unknown-episode",
            "no-play-data",
            "align-busy",
            "body-too-large",
            "unsupported-media-type",
            "store-full",
        ),
    },
)
async def align(request: Request) -> Response:
    """Align W on the latest play of a robot, or on recorded episodes, in the background.

    Alignment starts from the base W. What comes out becomes a new version of W; with promotion
    `auto` it serves as soon as it has passed its gates. `/act` goes on meanwhile.
    """
    runtime: Runtime = request.app.state.runtime
    wanted = read_request(AlignRequest, await _value(request))
    spec = runtime.spec(wanted.robot)
    await _make_durable(runtime, spec.name)
    try:
        session = await asyncio.to_thread(runtime.sessions.create, spec, wanted)
    except OSError as error:
        raise ProblemError(
            "store-full", f"the disk refused to keep the session: {error}. {MAKE_ROOM}"
        ) from error
    response = reply(request, session.model_dump(mode="json"), status=202)
    response.headers["Location"] = f"/align/{session.id}"
    return response


@router.get(
    "",
    operation_id="list_align",
    summary="All sessions",
    response_class=Response,
    responses={200: reply_body(AlignList, "Sessions, newest first"), **problems("unknown-robot")},
)
async def list_align(request: Request, robot: str | None = None) -> Response:
    """All sessions, newest first, also those of before the last restart; or those of one robot."""
    runtime: Runtime = request.app.state.runtime
    return reply(request, await asyncio.to_thread(_list, runtime, robot or None))


@router.get(
    "/{session}",
    operation_id="get_align",
    summary="One session",
    response_class=Response,
    responses={200: reply_body(AlignSession, "The session"), **problems("unknown-session")},
)
async def get_align(request: Request, session: str) -> Response:
    """A session as it is now."""
    runtime: Runtime = request.app.state.runtime
    return reply(request, runtime.sessions.get(session).model_dump(mode="json"))


@router.get(
    "/{session}/events",
    operation_id="align_events",
    summary="Follow a session",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events `state`, `progress`, `gates`, `swap`, `end`; `gap` "
            "where some are not kept any more",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems("unknown-session"),
    },
)
async def align_events(request: Request, session: str) -> Response:
    """Everything that happens in a session, from its start, or from `Last-Event-ID` on.

    Event ids are `<session>:<number>`; the data are JSON. The stream ends after `end`.
    """
    runtime: Runtime = request.app.state.runtime
    log = runtime.sessions.log(session)
    after = parse_event_id(session, request.headers.get("last-event-id"))
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    if is_head(request):
        # A session may run for hours.
        return Response(headers=headers, media_type="text/event-stream")
    return StreamingResponse(
        _stream(log, after, request.app.state.drain),
        media_type="text/event-stream",
        headers=headers,
    )


@router.post(
    "/{session}/stop",
    operation_id="stop_align",
    summary="Stop a session",
    status_code=202,
    response_class=Response,
    responses={
        202: reply_body(AlignSession, "The session, as it is now; it ends soon"),
        **problems("unknown-session"),
    },
)
async def stop_align(request: Request, session: str) -> Response:
    """End a session early. W stays what it is; what was reached so far is kept as a candidate."""
    runtime: Runtime = request.app.state.runtime
    stopped = await asyncio.to_thread(runtime.sessions.stop, session)
    return reply(request, stopped.model_dump(mode="json"), status=202)


def _list(runtime: Runtime, robot: str | None) -> dict[str, Any]:
    found = [each for each in runtime.sessions.list() if robot in (None, each.robot)]
    if not found and robot is not None:
        # Sessions may be left of a robot that is not served any more; of one unheard of are none.
        runtime.spec(robot)
    return {"sessions": [each.model_dump(mode="json") for each in found]}


async def _value(request: Request) -> Any:
    body = await read_body(request, _MAX_REQUEST_BYTES)
    # An empty body asks for the defaults.
    return parse(body, request_format(request)) if body else {}


async def _make_durable(runtime: Runtime, robot: str) -> None:
    """Let alignment see the play of this very moment, where that is being recorded."""
    episode = runtime.ingest.open_episode(robot)
    if episode is None:
        return
    try:
        await runtime.ingest.sync(episode)
    except SelfAlignError as error:
        logger.warning("alignment goes on with what is durable: %s", error)


async def _stream(log: EventLog, after: int, drain: Drain) -> AsyncIterator[bytes]:
    async for event in log.follow(after, drain):
        yield server_sent(log.session, event)
