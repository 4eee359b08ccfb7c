"""Camera images on the wire: raw uint8 arrays, or JPEG / PNG bytes.

The header of an encoded image is read and compared with what is expected before the image is
decoded, so that a small message cannot ask for a large amount of memory.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from server.wire.arrays import base64_bytes
from server.wire.problems import WireError

MAX_PIXELS: Final = 4096 * 4096
_UNREADABLE: Final = (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def decode_image(
    value: object, *, name: str = "image", height: int | None = None, width: int | None = None
) -> np.ndarray:
    """One image as `[height, width, 3]` uint8 RGB.

    Args:
        value: such an array, JPEG or PNG bytes (also as a 1-D uint8 array), or those in base64.
        name: what to call the image in an error.
        height: the height that is expected, in pixels; any if None.
        width: the width that is expected, in pixels; any if None.

    Raises:
        WireError: `bad-image` saying what was wrong and what was expected.
    """
    if isinstance(value, str):
        value = base64_bytes(value.partition(";base64,")[2] or value, what=f"image {name!r}")
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1:
        value = value.tobytes()
    if isinstance(value, bytes):
        return _decode(value, name, height, width)
    if not isinstance(value, np.ndarray):
        raise WireError(
            "bad-image",
            f"image {name!r} must be an array or JPEG / PNG bytes, got {type(value).__name__}",
        )
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise WireError(
            "bad-image",
            f"image {name!r} must be uint8 of shape [{_size(height)}, {_size(width)}, 3], "
            f"got {value.dtype} of shape {list(value.shape)}",
        )
    _check_size(value.shape[0], value.shape[1], name, height, width)
    return value


def encode_jpeg(image: np.ndarray, *, quality: int = 95) -> bytes:
    """JPEG bytes of an RGB image `[height, width, 3]` uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of an RGB image `[height, width, 3]` uint8: lossless, slower than JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _decode(data: bytes, name: str, height: int | None, width: int | None) -> np.ndarray:
    # Pillow reads only the header in `open`, the pixels in `convert`.
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            _check_size(image.height, image.width, name, height, width)
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise WireError(
            "bad-image",
            f"image {name!r} ({len(data)} bytes) is neither JPEG nor PNG; "
            "send one of these, or a uint8 array",
        ) from None
    except (*_UNREADABLE, ValueError, SyntaxError) as error:
        raise WireError(
            "bad-image", f"image {name!r} ({len(data)} bytes) cannot be decoded: {str(error)[:120]}"
        ) from None


def _check_size(rows: int, columns: int, name: str, height: int | None, width: int | None) -> None:
    if (height is not None and rows != height) or (width is not None and columns != width):
        raise WireError(
            "bad-image",
            f"image {name!r} is {rows} x {columns} pixels (height x width), "
            f"the robot spec says {_size(height)} x {_size(width)}",
        )
    if rows * columns > MAX_PIXELS or rows < 1 or columns < 1:
        raise WireError(
            "bad-image", f"image {name!r} of {rows} x {columns} pixels; at most {MAX_PIXELS} pixels"
        )


def _size(pixels: int | None) -> str:
    return "any" if pixels is None else str(pixels)
