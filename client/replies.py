"""Replies of the server as messages with known fields."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from client.errors import ProtocolError

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
