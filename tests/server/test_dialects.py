from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from server.dialects import decode_images, dialect_of, to_native
from server.wire.codec import dump_json
from server.wire.problems import WireError
from tests.fakes.running import SIZE, arm_spec

SPEC = arm_spec()
FRONT = np.full((SIZE, SIZE, 3), 1, np.uint8)
WRIST = np.full((SIZE, 2 * SIZE, 3), 2, np.uint8)
STATE = [0.1, 0.2, 0.3]


def _assert_read(body: dict[str, Any], instruction: str | None = "go") -> None:
    native = to_native(body, SPEC)
    assert np.array_equal(native["images"]["front"], FRONT)
    assert np.array_equal(native["images"]["wrist"], WRIST)
    assert native["state"] == pytest.approx(STATE)
    assert native.get("instruction") == instruction


def test_libero_keys_of_openpi() -> None:
    _assert_read(
        {
            "observation/image": FRONT,
            "observation/wrist_image": WRIST,
            "observation/state": np.array(STATE),
            "prompt": "go",
        }
    )


def test_droid_keys_of_openpi() -> None:
    _assert_read(
        {
            "observation/exterior_image_1_left": FRONT,
            "observation/wrist_image_left": WRIST,
            "observation/joint_position": np.array(STATE[:2]),
            "observation/gripper_position": np.array(STATE[2:]),
            "prompt": "go",
        }
    )


def test_aloha_keys_of_openpi_with_channels_first() -> None:
    _assert_read(
        {
            "state": np.array(STATE),
            "images": {
                "cam_high": FRONT.transpose(2, 0, 1),
                "cam_left_wrist": WRIST.transpose(2, 0, 1),
                "cam_right_wrist": WRIST.transpose(2, 0, 1),
            },
            "prompt": "go",
        }
    )


def test_the_names_of_the_spec_win_over_aliases() -> None:
    other = np.zeros((SIZE, SIZE, 3), np.uint8)
    _assert_read(
        {"observation/front": FRONT, "wrist": WRIST, "image": other, "state": STATE, "prompt": "go"}
    )


def test_openvla_oft_and_xvla_bodies() -> None:
    as_text = {name: dump_json(value).decode() for name, value in (("a", FRONT), ("b", WRIST))}
    state = dump_json(np.array(STATE)).decode()
    oft = {
        "full_image": FRONT,
        "left_wrist_image": WRIST,
        "state": np.array(STATE),
        "instruction": "go",
    }
    xvla = {
        "image0": as_text["a"],
        "image1": as_text["b"],
        "proprio": state,
        "language_instruction": "go",
        "domain_id": 0,
        "steps": 10,
    }

    _assert_read({"image": FRONT, "wrist_image": WRIST, "state": STATE, "instruction": "go"})
    _assert_read(oft)
    _assert_read(xvla)
    assert dialect_of(oft) == "oft"
    assert dialect_of(xvla) == "xvla"
    assert dialect_of({"image": FRONT}) == "openvla"
    assert dialect_of({"observation": {"image": FRONT}}) == "native"


def test_a_nested_observation_is_opened() -> None:
    nested = {"observation": {"image": FRONT, "wrist_image": WRIST, "state": STATE}, "robot": "arm"}

    _assert_read(nested, instruction=None)
    assert to_native(nested, SPEC)["robot"] == "arm"


def test_keys_with_dots_are_read_by_their_last_part() -> None:
    _assert_read(
        {
            "observation.images.front": FRONT,
            "observation.images.wrist": WRIST,
            "observation.state": STATE,
        },
        instruction=None,
    )


def test_floats_and_a_batch_of_one_become_uint8() -> None:
    _assert_read(
        {
            "image": (FRONT[None] / 255.0 + 1e-3).astype(np.float32),
            "wrist_image": WRIST,
            "state": STATE,
            "prompt": "go",
        }
    )


@pytest.mark.parametrize("image", [FRONT * 255.0, FRONT * 0.0 - 1.0, FRONT * np.nan])
def test_floats_of_another_range_are_refused_not_clipped(image: np.ndarray) -> None:
    body = {"image": image, "wrist_image": WRIST, "state": STATE}

    with pytest.raises(
        WireError, match=r"'image' has floats from .* from 0 to 1, or uint8"
    ) as said:
        to_native(body, SPEC)

    assert said.value.code == "bad-image"


def test_an_instruction_that_is_no_text_is_refused_not_left_out() -> None:
    body = {"image": FRONT, "wrist_image": WRIST, "state": STATE}

    assert to_native({**body, "prompt": ["go"]}, SPEC)["instruction"] == "go"
    for wrong in (5, ["a", "b"], b"go"):
        with pytest.raises(WireError, match="prompt: expected text, got"):
            to_native({**body, "prompt": wrong}, SPEC)


def test_a_missing_camera_is_named_with_the_keys_that_would_do() -> None:
    with pytest.raises(
        WireError, match=r"camera 'wrist'.*looked for wrist, wrist_image"
    ) as refused:
        to_native({"image": FRONT, "state": STATE}, SPEC)

    assert refused.value.code == "bad-observation"


def test_a_missing_state_is_named() -> None:
    with pytest.raises(WireError, match="needs 3 numbers as `state`"):
        to_native({"image": FRONT, "wrist_image": WRIST}, SPEC)


@pytest.mark.parametrize("joints", [np.zeros((2, 2)), "abc", None, [True], np.array(["a"])])
def test_a_droid_state_of_no_numbers_is_refused(joints: object) -> None:
    body = {"image": FRONT, "wrist_image": WRIST, "joint_position": joints, "gripper_position": 0.5}

    with pytest.raises(WireError, match="state") as refused:
        to_native(body, SPEC)

    assert refused.value.code == "bad-observation"


def test_a_droid_gripper_may_be_one_number() -> None:
    for gripper in (0.5, [0.5], np.float64(0.5), np.array(0.5), np.array([0.5])):
        body = {"image": FRONT, "wrist_image": WRIST, "joint_position": [1, 2]}
        assert to_native({**body, "gripper_position": gripper}, SPEC)["state"].tolist() == [
            1,
            2,
            0.5,
        ]


def test_a_state_of_text_is_refused() -> None:
    with pytest.raises(WireError, match="state: expected one list of numbers"):
        to_native({"image": FRONT, "wrist_image": WRIST, "state": "abc"}, SPEC)


def test_images_of_unknown_cameras_are_left_for_the_observation_check() -> None:
    decoded = decode_images({"front": FRONT, "roof": b"no image"}, SPEC)

    assert decoded["roof"] == b"no image"
    with pytest.raises(WireError, match="'wrist' is 8 x 8"):
        decode_images({"wrist": FRONT}, SPEC)
