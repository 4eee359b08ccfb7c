"""Camera images, made ready for a message."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from server.wire.images import encode_jpeg


def ready_images(
    images: Mapping[str, NDArray[np.uint8] | bytes], *, jpeg_quality: int | None
) -> dict[str, NDArray[np.uint8] | bytes]:
    """Images [height, width, 3] as contiguous arrays, or as JPEG of the quality given.

    What is bytes already (a JPEG or PNG file) goes as it is.
    """
    return {name: _ready(image, jpeg_quality) for name, image in images.items()}


def _ready(image: NDArray[np.uint8] | bytes, jpeg_quality: int | None) -> NDArray[np.uint8] | bytes:
    if isinstance(image, bytes):
        return image
    if jpeg_quality is None:
        return np.ascontiguousarray(image)
    return encode_jpeg(image, quality=jpeg_quality)
