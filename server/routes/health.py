"""`/healthz`, `/readyz` and `/metrics`: for supervisors and dashboards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server.problems import ProblemError
from server.routes.openapi import problems

if TYPE_CHECKING:
    from server.runtime import Runtime

router = APIRouter(tags=["server"])


@router.get(
    "/healthz",
    operation_id="healthz",
    summary="Is the process alive?",
    response_class=PlainTextResponse,
)
async def healthz() -> PlainTextResponse:
    """`OK` while the event loop turns, as openpi's server says it."""
    return PlainTextResponse("OK\n")


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Does the policy answer?",
    response_class=PlainTextResponse,
    responses=problems("not-ready"),
)
async def readyz(request: Request) -> PlainTextResponse:
    """`ready` from the warm-up of the policy until the server is told to stop."""
    runtime: Runtime = request.app.state.runtime
    if request.app.state.drain.is_set:
        raise ProblemError("not-ready", "the server is stopping")
    if not runtime.is_ready:
        raise ProblemError("not-ready", "the policy is warming up", headers={"Retry-After": "1"})
    return PlainTextResponse("ready\n")


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
)
async def metrics(request: Request) -> Response:
    """Latencies, requests, queue, W, losses, restarts, play and its store, safety events."""
    runtime: Runtime = request.app.state.runtime
    rendered = await asyncio.to_thread(runtime.render_metrics)
    return Response(rendered, media_type=CONTENT_TYPE_LATEST)
