"""What is said of a message whose fields pydantic refused."""

from __future__ import annotations

from typing import Any, TypeGuard, get_args

from pydantic import BaseModel, ValidationError

from server.wire.problems import WireError


def invalid_fields(
    error: ValidationError, *, code: str, model: type[BaseModel] | None = None
) -> WireError:
    """The fields that pydantic refused, as one wire error; shows the first, lists all.

    Args:
        error: pydantic's.
        code: the problem code.
        model: what was read; its fields are told to whoever gave one that is none of them.
    """
    fields = [
        {
            "field": ".".join(str(part) for part in item["loc"]),
            "message": _said(item["type"], item["msg"], item["loc"], model),
        }
        for item in sorted(
            error.errors(include_url=False, include_context=False, include_input=False),
            # A misspelt field explains the one that is missing.
            key=lambda item: item["type"] != "extra_forbidden",
        )
    ]
    shown = "; ".join(f"{item['field'] or 'message'}: {item['message']}" for item in fields[:3])
    more = f" (and {len(fields) - 3} more)" if len(fields) > 3 else ""
    return WireError(code, shown + more, errors=fields[:20])


def _said(kind: str, text: str, where: tuple[str | int, ...], model: type[BaseModel] | None) -> str:
    """What pydantic says, in words of a client who has not heard of pydantic."""
    if kind == "extra_forbidden":
        known = _fields_at(model, where[:-1])
        return "there is no such field" + (f"; there are {', '.join(known)}" if known else "")
    if kind == "union_tag_not_found":
        return "`type` is missing: start, step, sync or end"
    return text.removeprefix("Value error, ")


def _fields_at(model: type[BaseModel] | None, where: tuple[str | int, ...]) -> list[str]:
    """The fields of the model that stands at a place within another; none if that is not clear."""
    for part in where:
        if model is None or isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inside = () if field is None else (field.annotation, *get_args(field.annotation))
        model = next((kind for kind in inside if _is_model(kind)), None)
    return [] if model is None else list(model.model_fields)


def _is_model(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
