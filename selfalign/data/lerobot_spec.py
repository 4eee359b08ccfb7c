"""The robot spec of a LeRobotDataset: derived from its features, or declared and compared."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from selfalign.data.lerobot_format import ACTION, INFO, STATE, DatasetInfo, Feature, LeRobotError
from selfalign.data.lerobot_index import Limits, read_limits
from selfalign.data.spec import Camera, Dimension, RobotSpec

_CAMERA_PREFIXES = ("observation.images.", "observation.")
# What never moved in the dataset may still move on the robot.
_CONSTANT_REACH = 1.0
_MAX_LABEL = 64


def camera_name(feature: str) -> str:
    """The name of a camera in the robot spec: `wrist` for `observation.images.wrist`."""
    for prefix in _CAMERA_PREFIXES:
        if feature.startswith(prefix):
            return _identifier(feature.removeprefix(prefix))
    return _identifier(feature)


def derive_spec(root: Path, info: DatasetInfo) -> RobotSpec:
    """Make a robot spec of features and statistics.

    Limits are the smallest and largest values of the dataset, so the policy cannot leave what it
    was shown; a spec file may declare others.

    Raises:
        LeRobotError: the dataset has no statistics, or its names and sizes make no spec.
    """
    try:
        return RobotSpec(
            name=_identifier(info.robot_type or root.resolve().name),
            rate_hz=info.fps,
            cameras=tuple(
                Camera(name=camera_name(key), height=size[0], width=size[1])
                for key, size in ((k, f.image_size) for k, f in info.cameras.items())
            ),
            state=_dimensions(root, info, STATE),
            action=_dimensions(root, info, ACTION),
            max_step=None,
            default_instruction="",
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = f"make no robot spec ({field}: {first['msg']}); declare one with --spec"
        raise LeRobotError(root / INFO, "features", message) from None


def check_spec(root: Path, info: DatasetInfo, spec: RobotSpec) -> None:
    """Compare a declared spec with what the dataset holds.

    Raises:
        LeRobotError: cameras, their sizes, the rate or the number of state or action numbers
            differ.
    """
    file = root / INFO
    held = {camera_name(key): feature.image_size for key, feature in info.cameras.items()}
    for camera in spec.cameras:
        size = (camera.height, camera.width)
        if held.get(camera.name) != size:
            message = f"robot spec {spec.name!r} has {camera.name} {size}, the dataset has {held}"
            raise LeRobotError(file, f"camera {camera.name}", message)
    for feature, dimensions in ((STATE, spec.state), (ACTION, spec.action)):
        (count,) = info.features[feature].shape
        if len(dimensions) != count:
            message = f"has {count} numbers, robot spec {spec.name!r} declares {len(dimensions)}"
            raise LeRobotError(file, f"features.{feature}", message)
    if abs(spec.rate_hz - info.fps) > 1e-3 * info.fps:
        message = f"is {info.fps:g}, robot spec {spec.name!r} declares {spec.rate_hz:g} Hz"
        raise LeRobotError(file, "fps", message)


def _dimensions(root: Path, info: DatasetInfo, feature: str) -> tuple[Dimension, ...]:
    limits = read_limits(root, info, feature)
    if limits is None:
        message = f"has no min and max of {feature}; declare limits with --spec"
        raise LeRobotError(root / "meta/stats.json", feature, message)
    names = number_names(info.features[feature], feature.rsplit(".", maxsplit=1)[-1])
    return tuple(
        Dimension(name=name, unit="", low=low, high=high)
        for name, (low, high) in zip(names, _spans(limits), strict=True)
    )


def number_names(feature: Feature, prefix: str) -> list[str]:
    """A unique name for each number; `prefix_0` ... where the dataset has none that fit."""
    (size,) = feature.shape
    names = [name[:_MAX_LABEL] for name in _flat(feature.names)]
    if len(names) == size and len(set(names)) == size and all(names):
        return names
    return [f"{prefix}_{index}" for index in range(size)]


def _flat(names: object) -> list[str]:
    """Names as a list, a list under a heading, or a mapping from name to number."""
    if isinstance(names, dict):
        if names and all(isinstance(value, int) for value in names.values()):
            return [str(name) for name in sorted(names, key=names.__getitem__)]
        return [part for value in names.values() for part in _flat(value)]
    if isinstance(names, Sequence) and not isinstance(names, str):
        return [str(name) for name in names]
    return []


def _spans(limits: Limits) -> list[tuple[float, float]]:
    constant = np.float32(limits.low) >= np.float32(limits.high)
    reach = np.where(constant, _CONSTANT_REACH, 0.0)
    low, high = limits.low - reach, limits.high + reach
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _identifier(text: str) -> str:
    """A name that may be a directory: other characters become `_`."""
    clean = re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip("_.-")[:64]
    return clean or "robot"
