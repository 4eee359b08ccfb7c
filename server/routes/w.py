"""`/w`: the versions of W, and which one serves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response

from server.body import read_body, reply
from server.problems import ProblemError
from server.routes.openapi import problems, reply_body
from server.routes.query import KnownQueryRoute
from server.wire.operator import SnapshotInfo, SnapshotList, SwapReply
from server.wire.problems import MAKE_ROOM

if TYPE_CHECKING:
    from server.lineage import VersionRecord
    from server.runtime import Runtime

router = APIRouter(prefix="/w", tags=["w"], route_class=KnownQueryRoute)

_SAFETENSORS: Final = "application/vnd.safetensors"
_BINARY: Final = (_SAFETENSORS, "application/octet-stream")
_FILE: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
# A version is never changed and its number never used again.
_FOREVER: Final = "private, max-age=31536000, immutable"


@router.get(
    "",
    operation_id="list_w",
    summary="Versions of W",
    response_class=Response,
    responses={200: reply_body(SnapshotList, "Oldest first"), **problems("unknown-robot")},
)
async def list_w(request: Request, robot: str | None = None) -> Response:
    """Every version of a robot's W, and which one is active. Version 0 is the base."""
    runtime: Runtime = request.app.state.runtime
    name = runtime.spec(robot).name
    return reply(request, await asyncio.to_thread(_list, runtime, name))


@router.get(
    "/{version}",
    operation_id="get_w",
    summary="One version of W",
    response_class=Response,
    responses={
        200: {
            "description": "Metadata (JSON), or with `Accept: application/vnd.safetensors` the "
            "file, whose ETag is its sha256",
            "content": {
                "application/json": reply_body(SnapshotInfo, "")["content"]["application/json"],
                _SAFETENSORS: _FILE,
            },
        },
        304: {"description": "The client has this version"},
        **problems("unknown-robot", "unknown-version", "bad-request"),
    },
)
async def get_w(request: Request, version: int, robot: str | None = None) -> Response:
    """What is known of a version, or the version itself."""
    runtime: Runtime = request.app.state.runtime
    name = runtime.spec(robot).name
    record = runtime.registry.record(name, version)
    if not _wants_file(request):
        response = reply(request, _info(runtime, name, record))
        response.headers["Vary"] = "Accept"
        return response
    headers = {"ETag": f'"{record.sha256}"', "Cache-Control": _FOREVER, "Vary": "Accept"}
    if _is_known(request, record.sha256):
        return Response(status_code=304, headers=headers)
    data = await asyncio.to_thread(runtime.registry.read_bytes, name, version)
    headers["Content-Disposition"] = f'attachment; filename="{name}-w{version}.safetensors"'
    return Response(data, media_type=_SAFETENSORS, headers=headers)


@router.post(
    "",
    operation_id="upload_w",
    summary="Add a version of W from a file",
    status_code=201,
    response_class=Response,
    openapi_extra={"requestBody": {"required": True, "content": {_SAFETENSORS: _FILE}}},
    responses={
        200: reply_body(SnapshotInfo, "This very file is a version already"),
        201: reply_body(SnapshotInfo, "The new version"),
        **problems(
            "unknown-robot",
            "wrong-base",
            "wrong-spec",
            "body-too-large",
            "unsupported-media-type",
            "bad-snapshot",
            "bad-request",
            "store-full",
        ),
    },
)
async def upload_w(request: Request, robot: str | None = None, activate: bool = False) -> Response:  # noqa: FBT001, FBT002 - a query parameter
    """Add a snapshot made on the same frozen model; it is verified completely first.

    One that names the spec it was aligned for must name the robot's; one that does not is recorded
    as of the present spec. It gets the next version number of this robot, and serves at once with
    `activate=true`.
    """
    runtime: Runtime = request.app.state.runtime
    name = runtime.spec(robot).name
    _require_binary(request)
    data = await read_body(request, runtime.settings.max_body_bytes)
    record, is_new = await asyncio.to_thread(_upload, runtime, name, data, activate=activate)
    response = reply(request, _info(runtime, name, record), status=201 if is_new else 200)
    response.headers["Location"] = f"/w/{record.version}?robot={name}"
    return response


@router.post(
    "/{version}/activate",
    operation_id="activate_w",
    summary="Serve a version",
    response_class=Response,
    responses={
        200: reply_body(SwapReply, "It serves from the next request on"),
        **problems(
            "unknown-robot",
            "unknown-version",
            "version-rejected",
            "wrong-base",
            "wrong-spec",
            "bad-snapshot",
            "bad-request",
            "store-full",
        ),
    },
)
async def activate_w(
    request: Request,
    version: int,
    robot: str | None = None,
    force: bool = False,  # noqa: FBT001, FBT002
) -> Response:
    """Make a version the active one. One that its gates rejected needs `force=true`."""
    runtime: Runtime = request.app.state.runtime
    name = runtime.spec(robot).name
    return reply(request, await asyncio.to_thread(_activate, runtime, name, version, force=force))


@router.post(
    "/rollback",
    operation_id="rollback_w",
    summary="Serve the version before",
    response_class=Response,
    responses={
        200: reply_body(SwapReply, "It serves from the next request on"),
        **problems("unknown-robot", "nothing-to-roll-back", "wrong-spec"),
    },
)
async def rollback_w(request: Request, robot: str | None = None) -> Response:
    """Go back to the version that was active before. May be repeated, back to the base."""
    runtime: Runtime = request.app.state.runtime
    name = runtime.spec(robot).name
    return reply(request, await asyncio.to_thread(_roll_back, runtime, name))


def _list(runtime: Runtime, robot: str) -> dict[str, Any]:
    versions = [_info(runtime, robot, record) for record in runtime.registry.versions(robot)]
    active = runtime.registry.active(robot).version
    return {"robot": robot, "active": active, "versions": versions}


def _info(runtime: Runtime, robot: str, record: VersionRecord) -> dict[str, Any]:
    refusal = runtime.registry.refusal(robot, record)
    reason = None if refusal is None else str(refusal)
    return {"robot": robot, **record.model_dump(mode="json"), "cannot_serve": reason}


def _upload(
    runtime: Runtime, robot: str, data: bytes, *, activate: bool
) -> tuple[VersionRecord, bool]:
    known = {record.version for record in runtime.registry.versions(robot)}
    try:
        record = runtime.registry.add_candidate(robot, data)
        if activate:
            runtime.registry.activate(robot, record.version, reason="upload")
    except OSError as error:
        raise _not_stored(error) from error
    return runtime.registry.record(robot, record.version), record.version not in known


def _activate(runtime: Runtime, robot: str, version: int, *, force: bool) -> dict[str, Any]:
    previous = runtime.registry.active(robot).version
    try:
        bundle = runtime.registry.activate(robot, version, force=force)
    except OSError as error:
        raise _not_stored(error) from error
    return _swap(robot, previous, bundle.version, bundle.sha256)


def _roll_back(runtime: Runtime, robot: str) -> dict[str, Any]:
    previous = runtime.registry.active(robot).version
    bundle = runtime.registry.rollback(robot)
    return _swap(robot, previous, bundle.version, bundle.sha256)


def _swap(robot: str, previous: int, active: int, sha256: str) -> dict[str, Any]:
    return {"robot": robot, "active": active, "previous": previous, "w_sha256": sha256}


def _not_stored(error: OSError) -> ProblemError:
    return ProblemError(
        "store-full",
        f"the disk refused the write ({error.strerror}); the W before goes on serving, and "
        f"POST /w/rollback works all the same. {MAKE_ROOM}",
    )


def _wants_file(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return any(part.partition(";")[0].strip().lower() in _BINARY for part in accept.split(","))


def _is_known(request: Request, sha256: str) -> bool:
    tags = request.headers.get("if-none-match", "")
    given = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
    return bool(given & {f'"{sha256}"', "*"})


def _require_binary(request: Request) -> None:
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() not in _BINARY:
        raise ProblemError(
            "unsupported-media-type",
            f"Content-Type {given!r:.80} is not supported; send {_SAFETENSORS}",
        )
