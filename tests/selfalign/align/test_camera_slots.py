"""A policy that knows its cameras by name gets them in that order or refuses the robot."""

import pytest

from selfalign.align.camera_slots import check_cameras
from selfalign.align.robot_io import RobotIO
from selfalign.data.spec import Camera, Dimension, RobotSpec
from selfalign.errors import SpecError
from selfalign.model.config import ModelConfig, dummy_config
from tests.fakes.models import random_policy

ORDER = ("base", "left", "right")


def config(*names: str) -> ModelConfig:
    return dummy_config().model_copy(update={"cameras": names})


def robot(*cameras: str) -> RobotSpec:
    number = Dimension(name="x", unit="1", low=-1, high=1)
    return RobotSpec(
        name="arm",
        rate_hz=10,
        cameras=tuple(Camera(name=name, height=8, width=8) for name in cameras),
        state=(number,),
        action=(number,),
    )


@pytest.mark.parametrize("cameras", [ORDER, ("base",), ("base", "right"), ("left", "right")])
def test_cameras_in_the_order_of_training_pass(cameras: tuple[str, ...]) -> None:
    check_cameras(robot(*cameras), config(*ORDER))


def test_other_order_is_refused_with_the_right_one() -> None:
    with pytest.raises(SpecError, match=r"lists its cameras as right, base.*as base, right$"):
        check_cameras(robot("right", "base"), config(*ORDER))


def test_other_name_is_refused_with_those_that_are_known() -> None:
    told = "a camera 'front', but model 'dummy' was trained with base, left, right, in this order"
    with pytest.raises(SpecError, match=told):
        check_cameras(robot("base", "front"), config(*ORDER))


def test_model_that_names_no_cameras_takes_any() -> None:
    check_cameras(robot("front", "back"), config())


def test_more_cameras_than_the_model_takes() -> None:
    with pytest.raises(SpecError, match="has 4 cameras; model 'dummy' takes 3"):
        check_cameras(robot("a", "b", "c", "d"), config())


def test_policy_is_not_bound_to_a_robot_with_other_cameras() -> None:
    with pytest.raises(SpecError, match="a camera 'front'"):
        RobotIO(random_policy(cameras=ORDER), robot("front"))
