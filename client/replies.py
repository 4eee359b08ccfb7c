"""Replies of the server: bytes to values, values to messages with known fields."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from client.errors import ProtocolError
from server.wire.codec import JSON_MEDIA_TYPE, MSGPACK_MEDIA_TYPE, load_json, unpack
from server.wire.problems import WireError

ModelT = TypeVar("ModelT", bound=BaseModel)


def checked(model: type[ModelT], body: object) -> ModelT:
    """The body of a reply as `model`.

    Raises:
        ProtocolError: It lacks a field, or one is of another kind.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise ProtocolError(
            f"the server's reply does not fit: {field}: {first['msg']}; are client and server of "
            "the same release?"
        ) from error


def value_of(content_type: str, content: bytes, *, url: str) -> Any:
    """The value of a reply in JSON or msgpack.

    Raises:
        ProtocolError: It is neither.
    """
    kind = content_type.partition(";")[0].strip()
    try:
        if kind == MSGPACK_MEDIA_TYPE:
            return unpack(content)
        if kind == JSON_MEDIA_TYPE:
            return load_json(content)
    except WireError as error:
        raise ProtocolError(f"the reply of {url} cannot be read: {error}") from error
    raise ProtocolError(
        f"{url} replied with media type {kind or 'none'!r}, expected {JSON_MEDIA_TYPE} or "
        f"{MSGPACK_MEDIA_TYPE}; is this a SelfAlign server?"
    )


def error_body(content_type: str, content: bytes) -> object:
    """What an error reply carries: its value, or the text that it begins with."""
    try:
        return unpack(content) if "msgpack" in content_type else load_json(content)
    except WireError:
        return content.decode(errors="replace")[:200]
