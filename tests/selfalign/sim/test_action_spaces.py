"""Action spaces: encode and decode are inverse; one motion relabels into every space."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.data.normalisation import Normaliser, target_steps
from selfalign.sim.action_spaces import (
    FAMILIES,
    JOINT_STEP_RAD,
    MOTION_JOINT_STEP_RAD,
    MOTION_STEP_M,
    SCALES,
    TOOL_STEP_M,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    ActionSpace,
    JointAbsolute,
    JointDelta,
    ToolAbsolute,
    ToolDelta,
    UnknownActionSpace,
    joint_command,
    normalised_label,
    random_rotation,
    random_space,
    tool_command,
)
from selfalign.sim.env import SimEnv
from selfalign.sim.recording import commands_of, record_episode
from tests.selfalign.sim.environments import open_environment


def limits(space: ActionSpace, env: SimEnv) -> tuple[np.ndarray, np.ndarray]:
    dims = space.dims(env.arm)
    return np.array([dim.low for dim in dims]), np.array([dim.high for dim in dims])


@pytest.mark.parametrize("family", FAMILIES)
def test_decode_undoes_encode(env: SimEnv, family: str) -> None:
    rng = np.random.default_rng(1)
    for seed in range(3):
        env.reset(seed=seed)
        space, measured = random_space(rng, family, env.arm), env.measure()
        target = np.clip(measured.tool + rng.normal(0, 0.015, 3), WORKSPACE_LOW, WORKSPACE_HIGH)
        command = tool_command(measured, target, rng.uniform(0, 0.09), env.kinematics)
        again = space.decode(space.encode(command), measured, env.kinematics)
        np.testing.assert_allclose(again.joint_target, command.joint_target, atol=1e-9)
        np.testing.assert_allclose(again.opening_target, command.opening_target, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_undoes_decode(panda: SimEnv, family: str) -> None:
    rng = np.random.default_rng(2)
    for seed in range(5):
        panda.reset(seed=seed)
        space, measured = random_space(rng, family, panda.arm), panda.measure()
        near = tool_command(
            measured, measured.tool + np.array([0.01, -0.02, 0.005]), 0.04, panda.kinematics
        )
        low, high = limits(space, panda)
        action = space.encode(near) + 0.02 * (high - low) * rng.uniform(-1, 1, len(low))
        action[-1] = rng.uniform(low[-1], high[-1])
        command = space.decode(action, measured, panda.kinematics)
        np.testing.assert_allclose(space.encode(command), action, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    mirror=st.booleans(),
    scale=st.floats(*SCALES),
    shift=st.lists(st.floats(-0.04, 0.04), min_size=3, max_size=3),
)
def test_tool_delta_is_scaled_and_rotated_displacement(
    seed: int, mirror: bool, scale: float, shift: list[float]
) -> None:
    rotation = random_rotation(np.random.default_rng(seed), mirror=mirror)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(-1 if mirror else 1)
    space = ToolDelta(rotation, scale)
    raw = np.array(shift)
    displacement = scale * rotation @ raw
    np.testing.assert_allclose(displacement @ space.rotation / space.scale, raw, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(7)), signs=st.lists(st.sampled_from((-1, 1)), min_size=7))
def test_joint_numbering_is_undone(order: list[int], signs: list[int]) -> None:
    env = open_environment("panda")
    measured = env.measure()
    rng = np.random.default_rng(0)
    target = measured.joints + rng.uniform(-0.1, 0.1, 7)
    command = joint_command(measured, target, 0.05, env.kinematics)
    for space in (
        JointDelta(tuple(order), tuple(signs[:7]), 0.8),
        JointAbsolute(tuple(order), tuple(signs[:7])),
    ):
        again = space.decode(space.encode(command), measured, env.kinematics)
        np.testing.assert_allclose(again.joint_target, command.joint_target, atol=1e-12)


@pytest.mark.parametrize("kind", ["play", "demo"])
def test_every_label_of_recorded_motion_is_within_limits(env: SimEnv, kind: str) -> None:
    rng = np.random.default_rng(5)
    rows, _ = record_episode(env, kind, rng, steps=40)
    for family in FAMILIES:
        for _ in range(4):
            space = random_space(rng, family, env.arm)
            labels = normalised_label(space, commands_of(rows, env.arm.joint_count), env.arm)
            assert labels.shape == (len(rows["step"]), len(space.dims(env.arm)))
            assert labels.dtype == np.float32
            assert np.abs(labels).max() <= 1.02, family


@pytest.mark.parametrize("family", FAMILIES)
def test_relabelled_motion_executes_as_recorded(panda: SimEnv, family: str) -> None:
    rows, _ = record_episode(panda, "play", np.random.default_rng(3), steps=25)
    space = random_space(np.random.default_rng(4), family, panda.arm)
    labels = normalised_label(space, commands_of(rows, 7), panda.arm)
    panda.action_space = space
    normaliser, targets = Normaliser.for_action(panda.spec, width=8), list(target_steps(panda.spec))
    panda.reset(seed=int(np.random.default_rng(3).integers(2**31)))
    for label, tool in zip(labels, rows["tool"], strict=True):
        # Rows are float32, and every step starts where the last one ended: micrometres add up.
        np.testing.assert_allclose(panda.measure().tool, tool, atol=2e-5)
        action = normaliser.denormalise(np.pad(label, (0, 8 - len(label)))).astype(np.float64)
        action[targets] += panda.held_action()[targets]
        panda.step(action)


def test_absolute_spaces_declare_targets_with_the_steps_of_their_delta_twins(
    panda: SimEnv,
) -> None:
    found = {}
    for family in FAMILIES:
        panda.action_space = random_space(np.random.default_rng(0), family, panda.arm)
        found[family] = target_steps(panda.spec)
    assert found.pop("tool_absolute") == dict.fromkeys(range(3), TOOL_STEP_M)
    assert found.pop("joint_absolute") == dict.fromkeys(range(7), JOINT_STEP_RAD)
    assert not any(found.values())


def test_an_absolute_label_is_that_of_the_delta_twin(panda: SimEnv) -> None:
    rows, _ = record_episode(panda, "play", np.random.default_rng(3), steps=20)
    command, rng = commands_of(rows, 7), np.random.default_rng(0)
    rotation, offset = random_rotation(rng, mirror=True), rng.normal(size=3)
    order, signs = (3, 1, 0, 6, 5, 2, 4), (1, -1, 1, 1, -1, -1, 1)
    for space, twin in (
        (ToolAbsolute(rotation, offset), ToolDelta(rotation)),
        (JointAbsolute(order, signs), JointDelta(order, signs)),
    ):
        labels = [normalised_label(each, command, panda.arm) for each in (space, twin)]
        np.testing.assert_allclose(labels[0], labels[1], atol=1e-5)


def test_only_joints_as_mounted_are_called_as_the_state_calls_them(panda: SimEnv) -> None:
    state = {dimension.name for dimension in panda.spec.state}
    own = [dim.name for dim in JointAbsolute().dims(panda.arm)]
    assert set(own) == state
    other = JointAbsolute((1, 0, 2, 3, 4, 5, 6), (1,) * 7).dims(panda.arm)
    assert {dim.name for dim in other} & state == {"gripper_opening"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_held_action_keeps_an_arm_where_it_is(panda: SimEnv, family: str) -> None:
    panda.action_space = random_space(np.random.default_rng(1), family, panda.arm)
    panda.reset(seed=4)
    before = panda.measure()
    panda.step(panda.held_action())
    after = panda.measure()
    np.testing.assert_allclose(after.tool, before.tool, atol=2e-3)
    assert after.opening == pytest.approx(float(before.opening), abs=2e-3)


def test_labels_of_one_motion_differ_between_spaces(panda: SimEnv) -> None:
    rows, _ = record_episode(panda, "play", np.random.default_rng(3), steps=20)
    command, rng = commands_of(rows, 7), np.random.default_rng(0)
    plain = normalised_label(ToolDelta(), command, panda.arm)
    turned = normalised_label(random_space(rng, "tool_rotated", panda.arm), command, panda.arm)
    assert np.abs(plain[:, :3] - turned[:, :3]).max() > 0.2
    np.testing.assert_array_equal(plain[:, 3], turned[:, 3])


def test_tool_frame_delta_follows_the_tool(panda: SimEnv) -> None:
    measured = panda.measure()
    command = ToolDelta(in_tool_frame=True).decode(
        np.array([0.0, 0.0, 0.02, 0.05]), measured, panda.kinematics
    )
    # The tool's z axis points down.
    np.testing.assert_allclose(command.tool_target - measured.tool, [0, 0, -0.02], atol=1e-3)


def test_tool_targets_stay_in_the_workspace(panda: SimEnv) -> None:
    command = panda.command(np.array([2.0, -2.0, -1.0]), 5.0)
    np.testing.assert_allclose(
        command.tool_target, [WORKSPACE_HIGH[0], WORKSPACE_LOW[1], WORKSPACE_LOW[2]]
    )
    assert command.opening_target == pytest.approx(0.09)


def test_one_step_never_turns_a_joint_further_than_declared(env: SimEnv) -> None:
    command = env.command(np.array([0.66, 0.27, 0.02]), 0.0)
    step = np.abs(command.joint_target - env.measure().joints).max()
    assert step <= MOTION_JOINT_STEP_RAD + 1e-9


def test_absolute_offset_moves_the_declared_limits(panda: SimEnv) -> None:
    near = ToolAbsolute().dims(panda.arm)
    far = ToolAbsolute(offset=np.array([1.0, 0.0, 0.0])).dims(panda.arm)
    assert far[0].low == pytest.approx(near[0].low - 1.0)
    assert [dim.name for dim in near] == ["tool_x", "tool_y", "tool_z", "gripper_opening"]


def test_scales_leave_room_for_the_longest_step() -> None:
    assert MOTION_STEP_M / SCALES[0] <= TOOL_STEP_M + 1e-12
    assert MOTION_JOINT_STEP_RAD / SCALES[0] <= JOINT_STEP_RAD + 1e-12


def test_unknown_family_names_the_known_ones(panda: SimEnv) -> None:
    with pytest.raises(UnknownActionSpace, match="tool_rotated"):
        random_space(np.random.default_rng(0), "polar", panda.arm)


def test_random_spaces_are_seeded(panda: SimEnv) -> None:
    first = random_space(np.random.default_rng(9), "joint_permuted", panda.arm)
    second = random_space(np.random.default_rng(9), "joint_permuted", panda.arm)
    assert first == second
    assert sorted(first.order) == list(range(7))
