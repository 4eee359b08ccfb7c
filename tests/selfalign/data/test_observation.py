"""Observations: what is refused, and how images reach the policy."""

import dataclasses

import numpy as np
import pytest

from selfalign.data.observation import (
    Observation,
    ObservationMismatch,
    check_observation,
    encode_frames,
    encode_images,
)
from selfalign.data.resize import resize_with_pad
from selfalign.errors import ObservationError
from tests.fakes.play_steps import small_spec, step

SPEC = small_spec()


def observation(**changes) -> Observation:
    return dataclasses.replace(step(1, SPEC).observation, **changes)


def mismatch(**changes) -> ObservationMismatch:
    with pytest.raises(ObservationMismatch) as caught:
        check_observation(observation(**changes), SPEC)
    return caught.value


def images(**changes):
    found = {**observation().images, **changes}
    return {name: image for name, image in found.items() if image is not None}


def test_observation_of_the_spec_passes():
    check_observation(observation(), SPEC)


def test_mismatch_is_an_observation_error():
    assert issubclass(ObservationMismatch, ObservationError)


def test_missing_camera_is_named():
    error = mismatch(images=images(wrist=None))
    assert error.field == "images"
    assert "'wrist' is missing" in str(error)
    assert "'front', 'wrist'" in str(error)


def test_unknown_camera_is_named():
    assert "unknown camera 'top'" in str(mismatch(images=images(top=np.zeros((2, 2, 3), np.uint8))))


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((8, 6, 3), np.uint8), "uint8 array [8, 6, 3]"),
        (np.zeros((3, 6, 8), np.uint8), "uint8 array [3, 6, 8]"),
        (np.zeros((6, 8, 4), np.uint8), "uint8 array [6, 8, 4]"),
        (np.zeros((6, 8, 3), np.float32), "float32 array [6, 8, 3]"),
        (np.zeros((0, 8, 3), np.uint8), "uint8 array [0, 8, 3]"),
        ([[0]], "list"),
        (None, "NoneType"),
    ],
)
def test_wrong_image_says_what_it_is_and_what_was_expected(image, got):
    error = mismatch(images={**observation().images, "front": image})
    assert error.field == "images.front"
    assert error.got == got
    assert "[6, 8, 3]" in error.expected


@pytest.mark.parametrize(
    ("state", "got"),
    [
        (np.zeros(4, np.float32), "float32 array [4]"),
        (np.zeros((1, 3), np.float32), "float32 array [1, 3]"),
        (np.zeros(3), "float64 array [3]"),
        ([0, 0, 0], "list"),
    ],
)
def test_wrong_state_says_what_it_is_and_what_was_expected(state, got):
    error = mismatch(state=state)
    assert error.got == got
    assert "float32 array [3]" in error.expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_state_is_named(value):
    error = mismatch(state=np.float32([0, value, 0]))
    assert error.field == "state[1] (j1)"


def test_state_in_degrees_is_recognised():
    error = mismatch(state=np.float32([0, 0, 90]))
    assert error.field == "state[2] (j2)"
    assert "rad" in str(error)


def test_state_a_little_beyond_the_limits_passes():
    check_observation(observation(state=np.float32([3.1, -3.5, 0])), SPEC)


@pytest.mark.parametrize("instruction", [None, 3, b"touch", "x" * 1025])
def test_wrong_instruction_is_refused(instruction):
    assert mismatch(instruction=instruction).field == "instruction"


def test_image_of_the_right_size_is_not_touched():
    image = np.zeros((8, 8, 3), np.uint8)
    assert resize_with_pad(image, 8) is image


@pytest.mark.parametrize(("shape", "band"), [((4, 8), "rows"), ((8, 4), "columns")])
def test_padding_is_black_and_centred(shape, band):
    fitted = resize_with_pad(np.full((*shape, 3), 200, np.uint8), 16)
    assert fitted.shape == (16, 16, 3)
    brightness = fitted.mean(axis=(1, 2) if band == "rows" else (0, 2))
    assert brightness.tolist() == [0] * 4 + [200] * 8 + [0] * 4


def test_extreme_aspect_keeps_at_least_one_pixel():
    assert resize_with_pad(np.full((1, 1000, 3), 255, np.uint8), 16).max() == 255


def test_encoding_keeps_camera_order_range_and_channels():
    front = np.zeros((6, 8, 3), np.uint8)
    front[..., 0] = 255
    tensor, mask = encode_images(observation(images=images(front=front)), SPEC, 8, 3)
    assert tensor.shape == (3, 3, 8, 8)
    assert tensor.dtype == np.float32
    assert mask.tolist() == [True, True, False]
    assert tensor[0, :, 4, 4].tolist() == [1, -1, -1]
    assert (tensor[0, :, 0] == -1).all()
    assert (tensor[1] == np.float32(1) / np.float32(127.5) - 1).all()
    assert (tensor[2] == -1).all()


def test_order_is_that_of_the_spec_not_of_the_message():
    turned = dict(reversed(observation().images.items()))
    straight, _ = encode_images(observation(), SPEC, 8, 2)
    np.testing.assert_array_equal(
        encode_images(observation(images=turned), SPEC, 8, 2)[0], straight
    )


def test_many_frames_equal_one_by_one():
    observations = [step(i, SPEC).observation for i in range(3)]
    frames = {n: np.stack([o.images[n] for o in observations]) for n in ("front", "wrist")}
    together, mask = encode_frames(frames, SPEC, 8, 2)
    for i, one in enumerate(observations):
        np.testing.assert_array_equal(together[i], encode_images(one, SPEC, 8, 2)[0])
    assert mask.tolist() == [True, True]


def test_more_cameras_than_the_policy_are_refused():
    with pytest.raises(ObservationMismatch, match="at most 1"):
        encode_images(observation(), SPEC, 8, 1)
