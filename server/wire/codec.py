"""Bytes to plain values and back: msgpack and JSON, with numpy arrays inside."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import msgpack
import numpy as np

from server.wire.arrays import json_numpy, pack_array, read_json_numpy, unpack_array
from server.wire.problems import WireError

MSGPACK_MEDIA_TYPE: Final = "application/msgpack"
JSON_MEDIA_TYPE: Final = "application/json"

MAX_DEPTH: Final = 32
MAX_LIST: Final = 100_000
MAX_MAP: Final = 1_000


def pack(value: Any) -> bytes:
    """Msgpack bytes of a value; arrays as openpi writes them.

    Raises:
        TypeError: if it holds something that cannot be sent.
    """
    return msgpack.packb(value, default=pack_array, use_bin_type=True)


def unpack(data: bytes) -> Any:
    """The value of one msgpack message. Arrays in it are read-only.

    Raises:
        WireError: `bad-message` if it is truncated, malformed, too deep or too large.
    """
    try:
        value = msgpack.unpackb(
            data,
            object_hook=unpack_array,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_LIST,
            max_map_len=MAX_MAP,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise WireError(
            "bad-message", f"not one whole msgpack message ({len(data)} bytes): {reason}"
        ) from None
    _check_depth(value)
    return value


def dump_json(value: Any) -> bytes:
    """JSON bytes of a value; arrays as json-numpy objects, bytes as base64 text.

    Raises:
        ValueError: if a float is not finite.
        TypeError: if it holds something that cannot be sent.
    """
    return json.dumps(value, default=_json_default, separators=(",", ":"), allow_nan=False).encode()


def load_json(data: bytes | str) -> Any:
    """The value of one JSON text. Arrays in it are read-only.

    Raises:
        WireError: `bad-message` if it is truncated, malformed or too deep.
    """
    try:
        value = json.loads(data, object_hook=read_json_numpy)
    except (ValueError, RecursionError) as error:
        raise WireError(
            "bad-message", f"not valid JSON ({len(data)} bytes): {str(error)[:200]}"
        ) from None
    _check_depth(value)
    return value


def _json_default(value: object) -> Any:
    if isinstance(value, np.ndarray):
        return json_numpy(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [item for holder in level for item in _items(holder) if type(item) in (dict, list)]
        if not level:
            return
    raise WireError("bad-message", f"the message is nested deeper than {MAX_DEPTH} levels")


def _items(holder: Any) -> Any:
    if type(holder) is dict:
        return holder.values()
    return holder if type(holder) is list else ()
