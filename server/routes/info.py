"""`GET /`, `/info` and `/problems/{code}`: what this server is."""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import HTMLResponse, Response

from selfalign.data.w_spec import w_spec_sha256
from server.body import reply
from server.pages import docs_page, home_page
from server.problems import ProblemError, problem_response
from server.routes.openapi import problems, reply_body
from server.version import package_version
from server.wire.messages import InfoReply
from server.wire.problems import ADVICE, PROBLEMS, problem

if TYPE_CHECKING:
    from selfalign.data.spec import RobotSpec
    from server.runtime import Runtime

router = APIRouter(tags=["server"])


@router.get(
    "/info",
    operation_id="info",
    summary="What this server is and what it serves",
    response_class=Response,
    responses={200: reply_body(InfoReply, "Model, robots, limits"), **problems("not-acceptable")},
)
async def info(request: Request) -> Response:
    """The model, the robots with their specs and active W, and the limits of messages."""
    return reply(request, describe(request.app.state.runtime))


@router.get("/", include_in_schema=False)
async def home(request: Request) -> HTMLResponse:
    """A page for people who open the address in a browser."""
    return HTMLResponse(home_page(describe(request.app.state.runtime)))


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The API, as a page that needs nothing from other hosts."""
    return HTMLResponse(docs_page())


@router.get(
    "/problems/{code}",
    operation_id="problem_kind",
    summary="What a problem code means",
    response_class=HTMLResponse,
    responses=problems("not-found"),
)
async def problem_kind(code: str) -> HTMLResponse:
    """The page that the `type` of a problem points to."""
    if code not in PROBLEMS:
        raise ProblemError("not-found", f"there is no problem code {code!r:.60}")
    status, title = PROBLEMS[code]
    advice = f"<p>{html.escape(ADVICE[code])}</p>" if code in ADVICE else ""
    return HTMLResponse(
        f"<!doctype html><title>{code}</title><h1>{html.escape(title)}</h1>"
        f"<p>Code <code>{code}</code>, HTTP status {status}. The <code>detail</code> of the reply "
        f"says what was wrong in your request.</p>{advice}"
    )


async def no_such_websocket(websocket: WebSocket) -> None:
    """Answer the handshake on any other route."""
    path = websocket.url.path
    detail = f"there is no websocket {path!r:.60}; there are /, /act/stream and /play"
    await websocket.send_denial_response(problem_response(problem("not-found", detail)))


def describe(runtime: Runtime) -> dict[str, Any]:
    """The content of `/info`."""
    return {
        "name": "selfalign",
        "version": package_version(),
        "model": runtime.model_info,
        "default_robot": runtime.default_robot,
        "robots": [describe_robot(runtime, spec) for spec in runtime.robots.values()],
        "align_mode": runtime.settings.align_mode,
        "recorder": runtime.ingest.healthy(),
        "align_worker": runtime.sessions.healthy(),
        "max_body_bytes": runtime.settings.max_body_bytes,
        "uptime_s": round(time.monotonic() - runtime.started_s, 3),
    }


def describe_robot(runtime: Runtime, spec: RobotSpec) -> dict[str, Any]:
    """A robot and the W that it is served with."""
    bundle = runtime.registry.active(spec.name)
    return {
        "robot": spec.name,
        "digest": spec.digest,
        "spec_sha256": w_spec_sha256(spec),
        "w_version": bundle.version,
        "w_sha256": bundle.sha256,
        "notice": runtime.registry.notice(spec.name),
        "spec": spec.model_dump(mode="json"),
    }
