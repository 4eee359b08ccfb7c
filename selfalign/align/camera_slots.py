"""Whether a robot's cameras are those of a policy, in the order that it was trained with.

Cameras go to a policy in the order of the robot spec. A policy that knows its cameras by name (a
converted one) would act on a wrist image as on the view of the base, and nobody would notice.
"""

from selfalign.data.spec import RobotSpec
from selfalign.errors import SpecError
from selfalign.model.config import ModelConfig


def check_cameras(spec: RobotSpec, config: ModelConfig) -> None:
    """Compare the names and order of a robot's cameras with those of the model.

    Cameras may be missing: their places are left out, as openpi and LeRobot mask them.

    Raises:
        SpecError: there are more than the model takes, one has another name, or the order differs.
    """
    names = [camera.name for camera in spec.cameras]
    if len(names) > config.max_cameras:
        raise SpecError(
            f"robot {spec.name!r} has {len(names)} cameras; model {config.variant!r} takes "
            f"{config.max_cameras}"
        )
    if not config.cameras:
        return
    known = f"model {config.variant!r} was trained with {', '.join(config.cameras)}, in this order"
    if unknown := [name for name in names if name not in config.cameras]:
        raise SpecError(
            f"robot {spec.name!r} has a camera {unknown[0]!r}, but {known}. Name the cameras of "
            "the spec so, or convert the checkpoint with --cameras and the names that the spec has"
        )
    ordered = [name for name in config.cameras if name in names]
    if names != ordered:
        raise SpecError(
            f"robot {spec.name!r} lists its cameras as {', '.join(names)}, but {known}; list them "
            f"as {', '.join(ordered)}"
        )
