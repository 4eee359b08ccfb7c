"""An observation's camera images and state, made ready for a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.chunk import Observation
from server.wire.images import encode_jpeg


def ready_images(
    observation: Observation, *, jpeg_quality: int | None
) -> dict[str, NDArray[np.uint8] | bytes]:
    """Images [height, width, 3] as contiguous arrays, or as JPEG of the quality given.

    What is bytes already (a JPEG or PNG file) goes as it is.

    Raises:
        ValueError: There are none, or one is no image. Their sizes the server checks.
    """
    images = _given(observation, "images", "camera images by name, like {'front': array}")
    if not isinstance(images, Mapping):
        raise ValueError(
            f"observation['images'] must be camera images by name, like {{'front': array}}, "
            f"got {type(images).__name__}"
        )
    return {name: _ready(name, image, jpeg_quality) for name, image in images.items()}


def ready_state(observation: Observation) -> NDArray[np.float32]:
    """The state [S].

    Raises:
        ValueError: There is none, or it is no list of numbers. Their count the server checks.
    """
    state = _given(observation, "state", "numbers in the order of the robot's spec")
    try:
        return np.asarray(state, dtype=np.float32)
    except (ValueError, TypeError):
        raise ValueError(f"observation['state'] must be numbers, got {state!r:.80}") from None


def checked_quality(quality: int | None) -> int | None:
    """A quality of JPEG. Raises ValueError."""
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"jpeg_quality must be 1 to 100, or None for raw images, got {quality!r}")
    return quality


def _given(observation: Observation, field: str, what: str) -> Any:
    if field not in observation:
        there = ", ".join(observation) or "nothing"
        raise ValueError(f"the observation has no {field!r} ({what}); it has {there}")
    return observation[field]  # type: ignore[literal-required]


def _ready(name: str, image: Any, jpeg_quality: int | None) -> NDArray[np.uint8] | bytes:
    if isinstance(image, bytes):
        return image
    array = np.asarray(image)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"image {name!r} must be an array [height, width, 3] uint8, or the bytes of a JPEG or "
            f"PNG file, got {type(image).__name__}"
        )
    if jpeg_quality is None:
        return np.ascontiguousarray(array)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(
            f"image {name!r} must be uint8 of shape [height, width, 3], got {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    return encode_jpeg(array, quality=jpeg_quality)
