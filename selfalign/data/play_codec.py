"""How the images of play are encoded in a Zarr chunk: raw, zstd or JPEG.

Lossless coding gains little on noisy camera frames; JPEG gains 5 to 10 times, at the price that
alignment then sees slightly other pixels than the policy does when it acts.
"""

import struct
from dataclasses import dataclass
from typing import Any, Literal, Self, final

import numpy as np
import zarr.registry
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from selfalign.errors import StoreError

Codec = Literal["raw", "zstd", "jpeg"]

JPEG_CODEC_NAME = "selfalign.jpeg"
_DEFAULT_QUALITY = 95


def image_codecs(codec: Codec) -> dict[str, Any]:
    """Return the codec arguments of `zarr.Group.create_array` for images `[n, H, W, 3]` uint8.

    Raises:
        StoreError: an unknown codec, or JPEG without the package `simplejpeg`.
    """
    if codec == "raw":
        return {"compressors": None}
    if codec == "zstd":
        return {"compressors": [ZstdCodec(level=1, checksum=True)]}
    if codec == "jpeg":
        _simplejpeg()
        register_codecs()
        return {"serializer": JpegCodec(), "compressors": [Crc32cCodec()]}
    raise StoreError(f"unknown image codec {codec!r}; expected 'raw', 'zstd' or 'jpeg'")


def register_codecs() -> None:
    """Make Zarr able to open arrays written with our JPEG codec. May be called again."""
    zarr.registry.register_codec(JPEG_CODEC_NAME, JpegCodec)


@final
@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Zarr v3 codec: a chunk `[n, H, W, 3]` uint8 as n lengths (uint32) and then n JPEG images."""

    is_fixed_size = False

    quality: int = _DEFAULT_QUALITY

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read the codec from the metadata of an array."""
        return cls(int(data.get("configuration", {}).get("quality", _DEFAULT_QUALITY)))

    def to_dict(self) -> dict[str, Any]:
        """Describe the codec for the metadata of an array."""
        return {"name": JPEG_CODEC_NAME, "configuration": {"quality": self.quality}}

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """The size is not known before encoding."""
        raise NotImplementedError

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        encode = _simplejpeg().encode_jpeg
        frames = np.ascontiguousarray(chunk_array.as_numpy_array())
        blobs = [encode(f, quality=self.quality, colorsubsampling="444") for f in frames]
        lengths = struct.pack(f"<{len(blobs)}I", *map(len, blobs))
        return chunk_spec.prototype.buffer.from_bytes(lengths + b"".join(blobs))

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        # Any: numpy's arrays are Zarr's NDArrayLike, but their stubs disagree.
        frames: Any = _decode(chunk_bytes.to_bytes(), chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(frames)


def _decode(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    decode = _simplejpeg().decode_jpeg
    frames = np.empty(shape, dtype=np.uint8)
    lengths = struct.unpack_from(f"<{shape[0]}I", data)
    start = 4 * shape[0]
    for frame, length in zip(frames, lengths, strict=True):
        decode(data[start : start + length], buffer=frame)
        start += length
    return frames


def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError as error:
        msg = "the codec 'jpeg' needs simplejpeg: install the extra `jpeg`, or use 'raw' or 'zstd'"
        raise StoreError(msg) from error
    return simplejpeg
