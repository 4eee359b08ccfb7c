"""Bodies of requests and replies: JSON or msgpack, by media type, within a size limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fastapi.responses import Response

from server.problems import ProblemError
from server.wire.codec import (
    JSON_MEDIA_TYPE,
    MSGPACK_MEDIA_TYPE,
    dump_json,
    load_json,
    pack,
    unpack,
)

if TYPE_CHECKING:
    from fastapi import Request

Format = Literal["json", "msgpack"]

_FORMATS: dict[str, Format] = {
    JSON_MEDIA_TYPE: "json",
    MSGPACK_MEDIA_TYPE: "msgpack",
    "application/x-msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
}
_ANY = ("*/*", "application/*")


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body of a request.

    Raises:
        ProblemError: `body-too-large`, before the body is read where its length was announced.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise too_large(int(announced), limit_bytes)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise too_large(size, limit_bytes)
        parts.append(part)
    return b"".join(parts)


async def read_value(request: Request, limit_bytes: int) -> Any:
    """The body of a request as a plain value, read by its media type. For small bodies.

    Raises:
        ProblemError: `unsupported-media-type` or `body-too-large`.
        WireError: `bad-message`.
    """
    body_format = request_format(request)
    return parse(await read_body(request, limit_bytes), body_format)


def too_large(size: int, limit_bytes: int) -> ProblemError:
    """The error for a message of `size` bytes or more."""
    return ProblemError(
        "body-too-large",
        f"the message has {size} bytes or more, at most {limit_bytes} are accepted "
        "(SELFALIGN_MAX_BODY_BYTES); send encoded images, or fewer steps at once",
        limit_bytes=limit_bytes,
    )


def parse(body: bytes, body_format: Format) -> Any:
    """A plain value from bytes.

    Raises:
        WireError: `bad-message`.
    """
    return unpack(body) if body_format == "msgpack" else load_json(body)


def request_format(request: Request) -> Format:
    """How the body of a request is written.

    Raises:
        ProblemError: `unsupported-media-type`.
    """
    given = request.headers.get("content-type", "")
    found = _FORMATS.get(_essence(given))
    if found is None:
        raise ProblemError(
            "unsupported-media-type",
            f"Content-Type {given!r:.80} is not supported; "
            f"send {JSON_MEDIA_TYPE} or {MSGPACK_MEDIA_TYPE}",
        )
    return found


def reply_format(request: Request, *, default: Format = "json") -> Format:
    """How the reply to a request is to be written: by `Accept`, else `default`.

    Raises:
        ProblemError: `not-acceptable`.
    """
    accept = request.headers.get("accept")
    if not accept:
        return default
    wanted = [_essence(part) for part in accept.split(",")]
    for item in wanted:
        if item in _FORMATS:
            return _FORMATS[item]
    if any(item in _ANY for item in wanted):
        return default
    raise ProblemError(
        "not-acceptable",
        f"Accept {accept!r:.80} cannot be met; accept {JSON_MEDIA_TYPE} or {MSGPACK_MEDIA_TYPE}",
    )


def write(value: Any, body_format: Format, *, status: int = 200) -> Response:
    """A plain value as a reply."""
    if body_format == "msgpack":
        return Response(pack(value), status_code=status, media_type=MSGPACK_MEDIA_TYPE)
    return Response(dump_json(value), status_code=status, media_type=JSON_MEDIA_TYPE)


def reply(request: Request, value: Any, *, status: int = 200) -> Response:
    """A plain value as a reply to `request`, JSON or msgpack by its `Accept`.

    Raises:
        ProblemError: `not-acceptable`.
    """
    return write(value, reply_format(request), status=status)


def _essence(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()
