"""Kinematic chains: forward, Jacobian and inverse, alone and beside MuJoCo's."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from selfalign.data.kinematic_chain import (
    EXACT,
    ChainJoint,
    ChainKinematics,
    KinematicChain,
    KinematicsError,
)
from selfalign.data.rotations import matrix_vector
from selfalign.data.spec import RobotSpec
from selfalign.errors import SpecError
from tests.fakes.chains import panda_like, planar
from tests.fakes.play_steps import small_spec


def near_posture(kinematics: ChainKinematics, count: int, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, spread, (count, kinematics.joint_count))
    return np.clip(kinematics.posture + noise, kinematics.low, kinematics.high)


def test_planar_arm_stands_where_trigonometry_says():
    kinematics = ChainKinematics(planar())
    a, b = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 9))
    position, rotation = kinematics.forward(np.stack([a, b], axis=-1))
    expected = np.stack(
        [
            0.3 * np.cos(a) + 0.2 * np.cos(a + b),
            0.3 * np.sin(a) + 0.2 * np.sin(a + b),
            np.full(9, 0.1),
        ],
        axis=-1,
    )
    np.testing.assert_allclose(position, expected, atol=1e-12)
    np.testing.assert_allclose(matrix_vector(rotation)[:, 2], a + b, atol=1e-9)


def test_jacobian_is_the_derivative_of_forward():
    kinematics = ChainKinematics(panda_like())
    joints = near_posture(kinematics, 6)
    jacobian = kinematics.jacobian(joints)
    for i in range(kinematics.joint_count):
        shift = np.zeros(kinematics.joint_count)
        shift[i] = 1e-6
        after, turned = kinematics.forward(joints + shift)
        before, straight = kinematics.forward(joints - shift)
        turn = matrix_vector(turned @ straight.swapaxes(-1, -2))
        slope = np.concatenate([after - before, turn], axis=-1) / 2e-6
        np.testing.assert_allclose(jacobian[..., i], slope, atol=1e-6)


def test_inverse_reaches_any_pose_that_can_be_reached():
    kinematics = ChainKinematics(panda_like(), EXACT)
    wanted = near_posture(kinematics, 40, 0.25)
    position, rotation = kinematics.forward(wanted)
    start = near_posture(kinematics, 40, 0.1)
    solved = kinematics.inverse(start, position, rotation)
    reached, turned = kinematics.forward(solved)
    np.testing.assert_allclose(reached, position, atol=1e-8)
    np.testing.assert_allclose(turned, rotation, atol=1e-8)
    assert ((solved >= kinematics.low) & (solved <= kinematics.high)).all()


def test_inverse_stays_within_limits_where_the_target_is_out_of_reach():
    kinematics = ChainKinematics(panda_like())
    solved = kinematics.inverse(kinematics.posture, [5.0, 0.0, 0.0], np.eye(3))
    assert np.isfinite(solved).all()
    assert ((solved >= kinematics.low) & (solved <= kinematics.high)).all()


def test_inverse_leaves_an_arm_that_has_arrived_where_it_is():
    kinematics = ChainKinematics(panda_like())
    joints = near_posture(kinematics, 3)
    assert np.array_equal(kinematics.inverse(joints, *kinematics.forward(joints)), joints)


def test_rows_do_not_influence_one_another_and_leading_axes_are_kept():
    kinematics = ChainKinematics(panda_like())
    joints = near_posture(kinematics, 6).reshape(2, 3, -1)
    position, rotation = kinematics.forward(joints)
    assert position.shape == (2, 3, 3)
    assert rotation.shape == (2, 3, 3, 3)
    assert kinematics.jacobian(joints).shape == (2, 3, 6, 7)
    target = position + 0.03
    whole = kinematics.inverse(joints, target, rotation)
    one = kinematics.inverse(joints[1, 2], target[1, 2], rotation[1, 2])
    np.testing.assert_allclose(whole[1, 2], one, atol=1e-12)
    none = kinematics.inverse(joints[:, :0], position[:, :0], rotation[0, 0])
    assert none.shape == (2, 0, 7)


def test_wrong_shapes_are_refused_with_what_was_expected():
    kinematics = ChainKinematics(panda_like())
    with pytest.raises(KinematicsError, match="7 joints, got joints of shape"):
        kinematics.forward(np.zeros((4, 6)))
    with pytest.raises(KinematicsError, match=r"must be \[4, 3\]"):
        kinematics.inverse(np.zeros((4, 7)), np.zeros((2, 3)), np.eye(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "must be below"),
        ({"axis": (0.0, 0.0, 0.0)}, "must not be zero"),
        ({"quaternion": (0.0, 0.0, 0.0, 0.0)}, "must not be zero"),
    ],
)
def test_joint_that_is_none_is_refused(changes, message):
    plain = {"name": "j", "position": (0.0, 0.0, 0.0), "low": -1.0, "high": 1.0}
    with pytest.raises(ValueError, match=message):
        ChainJoint(**(plain | changes))


def test_posture_of_another_length_is_refused():
    with pytest.raises(ValueError, match="posture has 1 numbers"):
        KinematicChain(joints=planar().joints, posture=(0.0,))


def spec_with(chain: KinematicChain) -> dict:
    state = [{"name": f"joint_{i}", "unit": "rad", "low": -3.2, "high": 3.2} for i in (1, 2)]
    plain = small_spec().model_dump(mode="json") | {"state": state}
    return plain | {"kinematics": chain.model_dump(mode="json")}


def test_spec_declares_a_chain_and_keeps_it(tmp_path):
    spec = RobotSpec.from_mapping(spec_with(planar()))
    path = tmp_path / "robot.yaml"
    path.write_text(spec.to_yaml())
    back = RobotSpec.from_file(path)
    assert back == spec
    assert back.kinematics == planar()
    assert back.digest == spec.digest
    without = spec_with(planar()) | {"kinematics": None}
    assert RobotSpec.from_mapping(without).digest != spec.digest


def test_spec_without_a_chain_keeps_the_digest_that_it_had():
    # Computed with version 0.2.0, which knew no kinematics: stored play is found by it.
    expected = "e7dd3f55c5e7427f0d19c5692c9e51155972051c8a284d6fbe779ec36428a8f6"
    assert small_spec().digest == expected


def test_chain_must_move_numbers_of_the_state():
    with pytest.raises(SpecError, match="'joint_1' is none"):
        RobotSpec.from_mapping(
            small_spec().model_dump(mode="json") | {"kinematics": planar().model_dump(mode="json")}
        )
    joints = (planar().joints[0], planar().joints[0])
    with pytest.raises(SpecError, match="'joint_1' appears twice"):
        RobotSpec.from_mapping(spec_with(KinematicChain(joints=joints)))


def test_chain_of_the_data_page_can_be_declared():
    page = Path(__file__).parents[3] / "docs" / "data.md"
    (sample,) = re.findall(r"```yaml\n(kinematics:.*?)```", page.read_text(), flags=re.DOTALL)
    data = small_spec().model_dump(mode="json")
    data["state"][0]["name"] = "joint_1"
    spec = RobotSpec.from_mapping(data | yaml.safe_load(sample))
    position, _ = ChainKinematics(spec.kinematics).forward([0.0])
    np.testing.assert_allclose(position, [0.0, 0.0, 0.433])
