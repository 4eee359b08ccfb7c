"""Errors to problem details: one table, and the handlers that every route shares."""

from __future__ import annotations

import json
import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from selfalign.align.snapshot import SnapshotWrongBase
from selfalign.data.play_store import BadPlayStep, StoreFull, UnknownEpisode
from selfalign.errors import (
    NoPlayData,
    ObservationError,
    SelfAlignError,
    SnapshotError,
    SpecError,
    StoreError,
)
from server.wire.problems import (
    PROBLEM_MEDIA_TYPE,
    PROBLEMS,
    Problem,
    WireError,
    problem,
    problem_status,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request

logger = logging.getLogger(__name__)

# For errors of selfalign, which knows no HTTP. Errors of the server carry their own `code`.
ERROR_CODES: Final[dict[type[SelfAlignError], str]] = {
    BadPlayStep: "bad-play-step",
    NoPlayData: "no-play-data",
    ObservationError: "bad-observation",
    SnapshotError: "bad-snapshot",
    SnapshotWrongBase: "wrong-base",
    SpecError: "bad-spec",
    StoreError: "store-error",
    StoreFull: "store-full",
    UnknownEpisode: "unknown-episode",
}
_STATUS_CODES: Final = {
    400: "bad-message",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "body-too-large",
    415: "unsupported-media-type",
    422: "bad-request",
    503: "overloaded",
}


class ProblemError(SelfAlignError):
    """A request that the server refuses.

    Args:
        code: one of `server.wire.problems.PROBLEMS`.
        detail: what was wrong, what was expected, what to do.
        headers: HTTP headers of the reply.
        extra: further members of the problem, JSON values.
    """

    def __init__(
        self, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.headers = dict(headers or {})
        self.extra = extra


def problem_of(error: Exception) -> Problem:
    """The problem that a client is told; an unexpected error tells only where the log has it."""
    code = _code_of(error)
    if code is not None:
        status = getattr(error, "status", None)
        return problem(code, str(error), status=status, **getattr(error, "extra", {}))
    incident = uuid.uuid4().hex[:12]
    logger.error("incident %s", incident, exc_info=error)
    return problem(
        "internal-error", f"the server failed; its log has the cause under incident {incident}"
    )


def status_of(error: Exception) -> int:
    """The HTTP status of the problem that a client is told."""
    code = _code_of(error)
    if code is None:
        return 500
    own = getattr(error, "status", None)
    return own if isinstance(own, int) else problem_status(code)


def problem_response(found: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as an HTTP reply."""
    return Response(
        json.dumps(found.model_dump(), default=str).encode(),
        status_code=found.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def install(app: FastAPI) -> None:
    """Make every error of every route a problem."""
    app.add_exception_handler(WireError, _refused)
    app.add_exception_handler(SelfAlignError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _refused)


def _code_of(error: Exception) -> str | None:
    if not isinstance(error, WireError | SelfAlignError):
        return None
    own = getattr(error, "code", None)
    if isinstance(own, str):
        return own
    for kind in type(error).__mro__:
        if kind in ERROR_CODES:
            return ERROR_CODES[kind]
    return None


async def _refused(request: Request, error: Exception) -> Response:
    return problem_response(problem_of(error), getattr(error, "headers", None))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [
        {"field": ".".join(str(part) for part in item["loc"]), "message": item["msg"]}
        for item in error.errors()
    ]
    if any(item["type"] == "json_invalid" for item in error.errors()):
        return problem_response(problem("bad-message", f"not valid JSON: {fields[0]['message']}"))
    shown = "; ".join(f"{item['field']}: {item['message']}" for item in fields[:3])
    return problem_response(problem("bad-request", shown, errors=fields[:20]))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _STATUS_CODES.get(error.status_code, "internal-error")
    if error.status_code in (404, 405):
        detail = f"{request.method} {request.url.path}: {error.detail}; /docs lists what there is"
    else:
        detail = str(error.detail)
    found = problem(code, detail, status=error.status_code)
    return problem_response(found, error.headers)


assert set(_STATUS_CODES.values()) <= set(PROBLEMS)
