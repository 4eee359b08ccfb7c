from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from server.wire.images import decode_image, encode_jpeg, encode_png
from server.wire.problems import WireError


def _picture(height: int = 12, width: int = 20) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 9, columns * 9, rows + columns], axis=2).astype(np.uint8)


def test_a_raw_array_passes_untouched() -> None:
    picture = _picture()

    assert decode_image(picture, height=12, width=20) is picture


def test_png_is_lossless() -> None:
    assert np.array_equal(decode_image(encode_png(_picture())), _picture())


def test_jpeg_is_close() -> None:
    decoded = decode_image(encode_jpeg(_picture()), height=12, width=20)

    assert decoded.shape == (12, 20, 3)
    # JPEG of quality 95 on a smooth gradient; measured below 2
    assert np.abs(decoded.astype(int) - _picture()).mean() < 4


def test_encoded_bytes_come_in_three_wrappings() -> None:
    data = encode_png(_picture())
    as_text = base64.b64encode(data).decode()

    for value in (as_text, f"data:image/png;base64,{as_text}", np.frombuffer(data, np.uint8)):
        assert np.array_equal(decode_image(value), _picture())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(_picture()).convert(mode).save(buffer, "PNG")

    assert decode_image(buffer.getvalue()).shape == (12, 20, 3)


@pytest.mark.parametrize("value", [_picture(), encode_jpeg(_picture()), encode_png(_picture())])
def test_a_wrong_size_names_both_sizes(value: object) -> None:
    with pytest.raises(WireError, match=r"'front' is 12 x 20 .* says 24 x 20") as refused:
        decode_image(value, name="front", height=24, width=20)

    assert (refused.value.code, refused.value.status) == ("bad-image", 422)


@pytest.mark.parametrize(
    "value",
    [
        _picture().astype(np.float32),
        _picture()[..., 0],
        _picture()[..., :2],
        np.moveaxis(_picture(), 2, 0),
        np.zeros((2, 2, 4), np.uint8),
        None,
        7,
        [[[1, 2, 3]]],
        b"GIF89a" + b"\0" * 40,
        b"",
        encode_jpeg(_picture())[:-60],
        encode_jpeg(_picture())[:10],
        encode_png(_picture())[:-60],
        encode_png(_picture())[:20],
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(value: object) -> None:
    with pytest.raises(WireError) as refused:
        decode_image(value, name="front")

    assert refused.value.code == "bad-image"
    assert "'front'" in refused.value.detail


def test_text_that_is_not_base64_is_refused() -> None:
    with pytest.raises(WireError, match="not valid base64"):
        decode_image("this is no image!", name="front")


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\0\0\0\0"


@pytest.mark.parametrize("side", [5_000, 10_000, 60_000])
def test_a_small_message_cannot_ask_for_much_memory(side: int) -> None:
    with pytest.raises(WireError) as refused:
        decode_image(_png_header(side, side), name="front")

    assert refused.value.code == "bad-image"
