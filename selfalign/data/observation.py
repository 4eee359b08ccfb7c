"""What the robot senses at one instant, its check against the robot spec, and its images.

Shape key: n frames, N cameras of the model, H rows, W columns, S side of the model's image,
D state.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.resize import resize_floats, resize_with_pad
from selfalign.data.spec import Camera, Dimension, RobotSpec
from selfalign.errors import ObservationError

__all__ = [
    "Observation",
    "ObservationError",
    "ObservationMismatch",
    "check_observation",
    "encode_frames",
    "encode_images",
    "implausible",
]

MAX_INSTRUCTION_CHARS = 1024

# A state this many half-ranges away from the middle of its limits is in another unit (degrees for
# radians, millimetres for metres); anything less is for the safety stage to judge.
UNIT_MISTAKE = 10.0


@final
class ObservationMismatch(ObservationError):
    """One field of an observation is not what the robot spec declares.

    Attributes:
        field: the wrong field, for example `images.front` or `state[3] (joint_4)`.
        got: what it held.
        expected: what the spec asks for.
    """

    def __init__(self, *, field: str, got: object, expected: str) -> None:
        super().__init__(f"observation {field}: expected {expected}, got {got}")
        self.field, self.got, self.expected = field, got, expected


@final
@dataclass(frozen=True, eq=False)
class Observation:
    """What the robot senses at one instant.

    Attributes:
        images: RGB image `[H, W, 3]` uint8 by camera name.
        state: proprioception `[D]` float32 in the units of the robot spec.
        instruction: what the robot is asked to do, in words.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    instruction: str = field(default="")


def check_observation(observation: Observation, spec: RobotSpec) -> None:
    """Check an observation against the spec of the robot that sent it.

    Raises:
        ObservationMismatch: naming the first wrong field, its value and what was expected.
    """
    _check_cameras(observation.images, spec)
    for camera in spec.cameras:
        _check_image(observation.images[camera.name], camera)
    _check_state(observation.state, spec)
    _check_instruction(observation.instruction)


def encode_images(
    observation: Observation, spec: RobotSpec, size: int, max_cameras: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Encode the images of one checked observation as the policy takes them.

    Returns:
        Images `[N, 3, S, S]` float32 in [-1, 1], N = `max_cameras`, in the order of
        `spec.cameras`, and the mask `[N]` of slots that hold a camera (others are black).

    Raises:
        ObservationMismatch: the spec has more cameras than the policy takes.
    """
    one_frame = {name: image[None] for name, image in observation.images.items()}
    images, mask = encode_frames(one_frame, spec, size, max_cameras)
    return images[0], mask


def encode_frames(
    frames: Mapping[str, NDArray[np.uint8] | Sequence[NDArray[np.uint8]]],
    spec: RobotSpec,
    size: int,
    max_cameras: int,
    *,
    resize: Literal["pil", "torch"] = "pil",
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Encode n consecutive frames `[n, H, W, 3]` of each camera, as `encode_images` does for one.

    `resize` chooses between openpi's resizing and LeRobot's (selfalign/data/resize.py).

    Returns:
        Images `[n, N, 3, S, S]` float32 in [-1, 1] and the mask `[N]`.

    Raises:
        ObservationMismatch: the spec has more cameras than the policy takes.
    """
    if len(spec.cameras) > max_cameras:
        raise ObservationMismatch(
            field="images",
            got=f"{len(spec.cameras)} cameras in spec {spec.name!r}",
            expected=f"at most {max_cameras}, the limit of this policy",
        )
    fit, half = (resize_with_pad, 127.5) if resize == "pil" else (resize_floats, 0.5)
    count = len(frames[spec.cameras[0].name])
    images = np.zeros((count, max_cameras, 3, size, size), np.float32)
    for slot, camera in enumerate(spec.cameras):
        for row, frame in enumerate(frames[camera.name]):
            # In order first, then to floats: one pass more, but neither by single bytes.
            pixels = np.ascontiguousarray(fit(frame, size).transpose(2, 0, 1))
            np.divide(pixels, np.float32(half), out=images[row, slot], dtype=np.float32)
    images -= np.float32(1.0)
    return images, np.arange(max_cameras) < len(spec.cameras)


def _check_cameras(images: Mapping[str, object], spec: RobotSpec) -> None:
    declared = [camera.name for camera in spec.cameras]
    missing = [name for name in declared if name not in images]
    extra = [name for name in images if name not in declared]
    if missing or extra:
        problem = f"camera {missing[0]!r} is missing" if missing else f"unknown camera {extra[0]!r}"
        raise ObservationMismatch(
            field="images",
            got=f"{sorted(map(str, images))} ({problem})",
            expected=f"exactly the cameras {declared} of robot {spec.name!r}",
        )


def _check_image(image: object, camera: Camera) -> None:
    expected = f"uint8 array [{camera.height}, {camera.width}, 3] (rows, columns, RGB)"
    if not isinstance(image, np.ndarray):
        got = type(image).__name__
    elif image.dtype != np.uint8 or image.shape != (camera.height, camera.width, 3):
        got = f"{image.dtype} array {list(image.shape)}"
    else:
        return
    raise ObservationMismatch(field=f"images.{camera.name}", got=got, expected=expected)


def _check_state(state: object, spec: RobotSpec) -> None:
    expected = f"float32 array [{len(spec.state)}] of finite numbers"
    if not isinstance(state, np.ndarray):
        raise ObservationMismatch(field="state", got=type(state).__name__, expected=expected)
    if state.dtype != np.float32 or state.shape != (len(spec.state),):
        got = f"{state.dtype} array {list(state.shape)}"
        raise ObservationMismatch(field="state", got=got, expected=expected)
    for i, (value, dimension) in enumerate(zip(state.tolist(), spec.state, strict=True)):
        problem = implausible(value, dimension)
        if problem:
            where = f"state[{i}] ({dimension.name})"
            raise ObservationMismatch(field=where, got=value, expected=problem)


def implausible(value: float, dimension: Dimension) -> str | None:
    """Say what was expected of a value that is not finite or is plainly in another unit."""
    if not math.isfinite(value):
        return "finite number"
    middle, half = (dimension.low + dimension.high) / 2, (dimension.high - dimension.low) / 2
    if abs(value - middle) > UNIT_MISTAKE * half:
        return (
            f"number in {dimension.unit or 'its unit'} near the declared limits "
            f"[{dimension.low}, {dimension.high}] (is the unit right?)"
        )
    return None


def _check_instruction(instruction: object) -> None:
    if not isinstance(instruction, str):
        raise ObservationMismatch(
            field="instruction", got=type(instruction).__name__, expected="text (may be empty)"
        )
    if len(instruction) > MAX_INSTRUCTION_CHARS:
        raise ObservationMismatch(
            field="instruction",
            got=f"{len(instruction)} characters",
            expected=f"at most {MAX_INSTRUCTION_CHARS}",
        )
