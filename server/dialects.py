"""Other servers' observations, read as ours.

Clients of openpi, OpenVLA, OpenVLA-OFT and X-VLA each name cameras and state in their own way.
`docs/protocols.md` lists what is understood. A camera of the robot spec takes the image whose name
is the camera's own (the last part of `observation/image` is `image`); failing that, the main image
goes to the first camera of the spec and the wrist image to the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from server.wire.codec import load_json
from server.wire.fields import read_vector
from server.wire.images import decode_image
from server.wire.problems import WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from selfalign.data.spec import RobotSpec

Dialect = Literal["native", "openvla", "oft", "xvla"]

_MAIN = (
    "image", "full_image", "image0", "image_0", "exterior_image_1_left", "cam_high", "base_0_rgb",
    "front", "top",
)  # fmt: skip
_WRIST = (
    "wrist_image", "left_wrist_image", "wrist_image_left", "image1", "image_1", "cam_left_wrist",
    "left_wrist_0_rgb", "wrist",
)  # fmt: skip
_THIRD = (
    "right_wrist_image", "image2", "image_2", "cam_right_wrist", "right_wrist_0_rgb",
    "exterior_image_2_left",
)  # fmt: skip
_ALIASES = (_MAIN, _WRIST, _THIRD)
_DROID_STATE = ("joint_position", "gripper_position")
_STATES = ("state", "proprio")
_INSTRUCTIONS = ("instruction", "prompt", "language_instruction", "task_description")
# Fields of ours that a foreign observation may carry as well.
_OURS = (
    "robot", "w_version", "seed", "observed_at_s", "observation_seq", "previous_action",
    "previous_actions", "inference_delay", "execution_horizon",
)  # fmt: skip


def dialect_of(value: Mapping[str, Any]) -> Dialect:
    """Which kind of client sent this body to `/act`; decides the shape of the reply."""
    if "full_image" in value:
        return "oft"
    if "image0" in value:
        return "xvla"
    if "image" in value:
        return "openvla"
    return "native"


def is_foreign(value: Mapping[str, Any]) -> bool:
    """True for a body that has no `images` map of ours and needs `to_native`."""
    return "images" not in value


def to_native(value: Mapping[str, Any], spec: RobotSpec) -> dict[str, Any]:
    """A foreign observation as the fields of `ActRequest`.

    Args:
        value: keys as `observation/image` or `image`, or nested maps `observation`, `images`.
        spec: the robot whose cameras and state are to be found.

    Raises:
        WireError: `bad-observation` naming the camera or state that was not found, and the keys
            that would have been understood.
    """
    flat = _flatten(value)
    native: dict[str, Any] = {"images": _images(flat, spec), "state": _state(flat, spec)}
    key = next((key for key in _INSTRUCTIONS if flat.get(key) is not None), None)
    if key is not None:
        native["instruction"] = _instruction(flat[key], key)
    for key in _OURS:
        if flat.get(key) is not None:
            native[key] = flat[key]
    return native


def _flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Last parts of the keys to values; maps inside are opened."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = _text(key).rpartition("/")[2].rpartition(".")[2]
        if isinstance(item, dict) and item:
            flat.update(_flatten(item))
        else:
            flat[name] = _unquote(item)
    return flat


def _images(flat: Mapping[str, Any], spec: RobotSpec) -> dict[str, Any]:
    images = {}
    for place, camera in enumerate(spec.cameras):
        names = (camera.name, *(_ALIASES[place] if place < len(_ALIASES) else ()))
        key = next((name for name in names if flat.get(name) is not None), None)
        if key is None:
            raise WireError(
                "bad-observation",
                f"no image for camera {camera.name!r} of robot {spec.name!r}; looked for "
                f"{', '.join(names)} among {', '.join(sorted(flat)) or 'no keys'}",
            )
        images[camera.name] = _as_rgb_bytes(flat[key], key)
    return images


def _state(flat: Mapping[str, Any], spec: RobotSpec) -> NDArray[np.float32]:
    if all(flat.get(key) is not None for key in _DROID_STATE):
        return np.concatenate([_vector(_as_row(flat[key])) for key in _DROID_STATE])
    for key in _STATES:
        if flat.get(key) is not None:
            return _vector(flat[key])
    raise WireError(
        "bad-observation",
        f"no state; robot {spec.name!r} needs {len(spec.state)} numbers as `state` "
        "(or observation/state, proprio, or joint_position and gripper_position)",
    )


def _instruction(value: Any, key: str) -> str:
    """A text; GR00T sends a list of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise WireError("bad-observation", f"{key}: expected text, got {type(value).__name__}")
    return value


def _as_row(value: Any) -> Any:
    """DROID's gripper position is one number."""
    is_scalar = isinstance(value, int | float) or (isinstance(value, np.ndarray) and not value.ndim)
    return [float(value)] if is_scalar else value


def _vector(value: Any) -> NDArray[np.float32]:
    try:
        return read_vector(value)
    except ValueError as error:
        raise WireError("bad-observation", f"state: {error}") from None


def _as_rgb_bytes(value: Any, key: str) -> Any:
    """Arrays as openpi's own transforms take them: floats in [0, 1], channels first, batch of 1.

    Resized floats may overshoot a little; what is plainly of another range is refused.
    """
    if not isinstance(value, np.ndarray) or value.ndim < 3:
        return value
    if value.ndim == 4 and value.shape[0] == 1:
        value = value[0]
    if value.dtype.kind == "f":
        if value.size and not (value.min() > -0.5 and value.max() < 1.5):
            raise WireError(
                "bad-image",
                f"image {key!r} has floats from {value.min():g} to {value.max():g}; send floats "
                "from 0 to 1, or uint8",
            )
        value = (np.clip(value, 0.0, 1.0) * 255).astype(np.uint8)
    if value.ndim == 3 and value.shape[0] == 3 and value.shape[2] != 3:
        value = np.ascontiguousarray(value.transpose(1, 2, 0))
    return value


def _unquote(item: Any) -> Any:
    """X-VLA sends arrays as JSON text inside JSON."""
    if isinstance(item, str) and item.startswith('{"__numpy__"'):
        return load_json(item)
    return item


def _text(key: object) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)


def decode_images(images: Mapping[str, Any], spec: RobotSpec) -> dict[str, Any]:
    """The images of the spec's cameras, decoded; of others, which are refused later, as they came.

    Raises:
        WireError: `bad-image`, also if a size is not the one that the spec says.
    """
    decoded = dict(images)
    for camera in spec.cameras:
        if camera.name in images:
            decoded[camera.name] = decode_image(
                images[camera.name], name=camera.name, height=camera.height, width=camera.width
            )
    return decoded
