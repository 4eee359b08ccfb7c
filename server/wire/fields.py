"""Field types of the messages: arrays that are checked as a whole, never element by element."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, WithJsonSchema

_NUMBERS = {"type": "array", "items": {"type": "number"}}


def read_vector(value: object) -> np.ndarray:
    """A `[n]` float32 array from a numeric array or a list of numbers.

    Raises:
        ValueError: if it is not one row of numbers.
    """
    return _numbers(value, 1, "one list of numbers")


def read_chunk(value: object) -> np.ndarray:
    """A `[steps, actions]` float32 array from a numeric array or a list of rows of numbers.

    Raises:
        ValueError: if it is not a table of numbers.
    """
    return _numbers(value, 2, "a list of rows of numbers, all of one length")


def _numbers(value: object, dimensions: int, expected: str) -> np.ndarray:
    if isinstance(value, list | tuple):
        value = _array_of_numbers(value)
    if (
        not isinstance(value, np.ndarray)
        or value.dtype.kind not in "iuf"
        or value.ndim != dimensions
    ):
        shown = (
            f"{value.dtype} of shape {list(value.shape)}"
            if isinstance(value, np.ndarray)
            else repr(value)[:40]
        )
        raise ValueError(f"expected {expected}, got {shown}")
    with np.errstate(over="ignore"):
        return value.astype(np.float32, copy=False)


def _array_of_numbers(value: list[Any] | tuple[Any, ...]) -> object:
    # numpy alone would also read text ("1.5"), truth values and ragged lists
    rows = value if value and isinstance(value[0], list | tuple) else [value]
    if not all(isinstance(row, list | tuple) and _are_numbers(row) for row in rows):
        return value
    try:
        return np.asarray(value, dtype=np.float64)
    except (ValueError, OverflowError):
        return value


def _are_numbers(row: list[Any] | tuple[Any, ...]) -> bool:
    return all(
        type(item) in (int, float) or isinstance(item, np.floating | np.integer) for item in row
    )


def _read_image(value: object) -> np.ndarray | bytes | str:
    if isinstance(value, np.ndarray | bytes | str):
        return value
    raise ValueError(
        f"expected an array, JPEG / PNG bytes or base64 text, got {type(value).__name__}"
    )


Vector = Annotated[np.ndarray, BeforeValidator(read_vector), WithJsonSchema(_NUMBERS)]
"""`[n]` float32."""

Chunk = Annotated[
    np.ndarray, BeforeValidator(read_chunk), WithJsonSchema({"type": "array", "items": _NUMBERS})
]
"""`[steps, actions]` float32."""

ImageValue = Annotated[
    Any,
    BeforeValidator(_read_image),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "contentEncoding": "base64", "description": "JPEG or PNG"},
                {
                    "type": "object",
                    "description": "json-numpy: [height, width, 3] uint8 RGB",
                    "properties": {
                        "__numpy__": {"type": "string", "contentEncoding": "base64"},
                        "dtype": {"type": "string", "const": "|u1"},
                        "shape": {"type": "array", "items": {"type": "integer"}},
                    },
                    "required": ["__numpy__", "dtype", "shape"],
                },
            ]
        }
    ),
]
"""One camera image: `[height, width, 3]` uint8 RGB, or JPEG / PNG bytes, or those in base64."""

RobotName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name of a robot: letters, digits, dot, underscore, dash; at most 64",
        examples=["panda"],
    ),
]
