"""Camera images, made ready for a message."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from server.wire.images import encode_jpeg


def ready_images(
    images: Mapping[str, NDArray[np.uint8]], *, jpeg_quality: int | None
) -> dict[str, NDArray[np.uint8] | bytes]:
    """Images [height, width, 3] as contiguous arrays, or as JPEG of the quality given."""
    if jpeg_quality is None:
        return {name: np.ascontiguousarray(image) for name, image in images.items()}
    return {name: encode_jpeg(image, quality=jpeg_quality) for name, image in images.items()}
