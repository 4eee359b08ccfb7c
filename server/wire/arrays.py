"""Numpy arrays as msgpack maps (the openpi convention) and as json-numpy objects.

Reading an array never trusts the message: the dtype is looked up in a list, and the size of the
data is compared with the shape before any memory is touched.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any, Final

import numpy as np

from server.wire.problems import WireError

MAX_DIMENSIONS: Final = 6

_DTYPES: Final = {
    name: np.dtype(kind)
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "b1")
    for name in (np.dtype(kind).str, np.dtype(kind).name)
}


def pack_array(value: object) -> Any:
    """`default` hook of the msgpack packer: arrays and numpy scalars as maps with binary keys.

    Raises:
        TypeError: for anything that is not numeric numpy data.
    """
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "VOcSUmM":
        raise TypeError(f"arrays of dtype {value.dtype} cannot be sent; use a numeric dtype")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot be sent as msgpack")


def unpack_array(value: dict[Any, Any]) -> Any:
    """`object_hook` of the msgpack reader: array maps become arrays, other maps pass.

    Keys may be binary (openpi) or text (others). Arrays are read-only views of the message.

    Raises:
        WireError: `bad-message` if an array map is not well-formed.
    """
    if b"__ndarray__" in value or "__ndarray__" in value:
        return array_from_bytes(
            _member(value, "data"), _member(value, "dtype"), _member(value, "shape")
        )
    if b"__npgeneric__" in value or "__npgeneric__" in value:
        return _scalar(_member(value, "data"), _member(value, "dtype"))
    return value


def json_numpy(array: np.ndarray) -> dict[str, Any]:
    """One array as a json-numpy object."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"__numpy__": data, "dtype": array.dtype.str, "shape": list(array.shape)}


def read_json_numpy(value: dict[str, Any]) -> Any:
    """`object_hook` of the JSON reader: json-numpy objects become arrays, others pass.

    Raises:
        WireError: `bad-message` if a json-numpy object is not well-formed.
    """
    if "__numpy__" not in value:
        return value
    return array_from_bytes(
        base64_bytes(value["__numpy__"], what="a json-numpy array"),
        value.get("dtype"),
        value.get("shape"),
    )


def base64_bytes(text: object, *, what: str) -> bytes:
    """Decode base64 text strictly.

    Raises:
        WireError: `bad-message` if it is not base64 text.
    """
    if not isinstance(text, str):
        raise WireError("bad-message", f"{what} must be base64 text, got {type(text).__name__}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("bad-message", f"{what} is not valid base64: {error}") from None


def array_from_bytes(data: object, dtype: object, shape: object) -> np.ndarray:
    """A read-only array over `data`, after its dtype, shape and size have been checked.

    Raises:
        WireError: `bad-message` naming the member that is wrong.
    """
    known = _DTYPES.get(_text(dtype))
    if known is None:
        names = ", ".join(sorted({item.str for item in _DTYPES.values()}))
        raise WireError(
            "bad-message", f"array dtype {_text(dtype)!r:.40} is not supported; use one of {names}"
        )
    if not isinstance(data, bytes):
        raise WireError("bad-message", f"array data must be binary, got {type(data).__name__}")
    sizes = _shape(shape)
    expected = math.prod(sizes) * known.itemsize
    if len(data) != expected:
        raise WireError(
            "bad-message",
            f"an array of shape {list(sizes)} and dtype {known.str} needs {expected} bytes, "
            f"got {len(data)}",
        )
    return np.frombuffer(data, dtype=known).reshape(sizes)


def _member(value: dict[Any, Any], name: str) -> object:
    return value.get(name.encode("ascii"), value.get(name))


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii", errors="replace")
    return value if isinstance(value, str) else repr(value)[:40]


def _shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list | tuple) or len(shape) > MAX_DIMENSIONS:
        raise WireError(
            "bad-message", f"array shape must be a list of at most {MAX_DIMENSIONS} sizes"
        )
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**31:
            raise WireError(
                "bad-message", f"array shape {shape!r:.80} has a size that is not a count"
            )
    return tuple(shape)


def _scalar(data: object, dtype: object) -> int | float | bool:
    if _text(dtype) not in _DTYPES or not isinstance(data, int | float):
        raise WireError(
            "bad-message", f"numpy scalar of dtype {_text(dtype)!r:.40} is not a supported number"
        )
    return data
