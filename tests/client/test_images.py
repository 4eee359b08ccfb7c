"""What of an observation is refused before it is sent, where the server could not say it."""

from typing import Any

import numpy as np
import pytest

from client import RobotClient
from client.images import ready_images, ready_state

IMAGE = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([IMAGE], "must be camera images by name, .* got list"),
        ({"front": None}, "image 'front' must be an array .* got NoneType"),
        ({"front": "front.png"}, "image 'front' must be an array .* got str"),
    ],
)
def test_what_is_no_image_is_named(images: Any, said: str) -> None:
    for quality in (None, 80):
        with pytest.raises(ValueError, match=said):
            ready_images({"images": images, "state": [0.0]}, jpeg_quality=quality)


@pytest.mark.parametrize(
    "image", [IMAGE[..., 0], IMAGE.astype(np.float32), IMAGE.transpose(2, 0, 1)]
)
def test_an_image_that_jpeg_cannot_hold_is_refused_as_the_server_would(image: Any) -> None:
    observation: Any = {"images": {"front": image}, "state": [0.0]}
    assert ready_images(observation, jpeg_quality=None)["front"] is not None
    with pytest.raises(ValueError, match=r"image 'front' must be uint8 of shape .* got"):
        ready_images(observation, jpeg_quality=80)


def test_a_field_that_is_missing_is_named_with_those_that_are_there() -> None:
    observation: Any = {"image": {"front": IMAGE}, "states": [0.0]}
    with pytest.raises(ValueError, match=r"no 'images' .*; it has image, states"):
        ready_images(observation, jpeg_quality=None)
    with pytest.raises(ValueError, match="no 'state'"):
        ready_state(observation)
    with pytest.raises(ValueError, match="must be numbers, got \\['a'\\]"):
        ready_state({"images": {}, "state": ["a"]})  # type: ignore[list-item]


def test_options_of_a_client_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="transport must be 'websocket' or 'http', got 'udp'"):
        RobotClient(transport="udp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="jpeg_quality must be 1 to 100"):
        RobotClient(jpeg_quality=500)
