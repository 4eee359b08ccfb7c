"""Maps between numberings of actions: each has a way back, and says what the numbers are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.align.action_maps import (
    AddedNumbers,
    Backwards,
    CartesianToJoint,
    Chained,
    DeltaToAbsolute,
    FrameChange,
    Reordered,
)
from selfalign.align.augment_appearance import AugmentationError
from selfalign.align.augment_embodiment import (
    NUMBERINGS,
    EmbodimentAugmentation,
    EmbodimentAugmentationConfig,
    normalised,
)
from selfalign.data.kinematic_chain import EXACT, ChainKinematics
from selfalign.data.rotations import matrix_vector, quaternion_matrix, vector_matrix
from selfalign.data.spec import Dimension, RobotSpec
from tests.fakes.chains import panda_like, planar
from tests.fakes.play_steps import small_spec

KINEMATICS = ChainKinematics(panda_like(), EXACT)
GRIPPER = Dimension(name="gripper_opening", unit="m", low=0.0, high=0.09)
seeds = st.integers(0, 2**32 - 1)
properties = settings(max_examples=25, deadline=None)


def dimensions(*names: str) -> tuple[Dimension, ...]:
    return tuple(Dimension(name=name, unit="m", low=-0.5, high=1.0) for name in names)


XYZ = (*dimensions("x", "y", "z"), GRIPPER)


def play(rng: np.random.Generator, *lead: int) -> tuple[np.ndarray, np.ndarray]:
    """Measured joints [..., 7] near the posture, and joint targets a step away."""
    joints = KINEMATICS.posture + rng.normal(0, 0.15, (*lead, 7))
    joints = np.clip(joints, KINEMATICS.low + 0.1, KINEMATICS.high - 0.1)
    return joints, joints + rng.uniform(-0.08, 0.08, joints.shape)


def random_frame(rng: np.random.Generator) -> np.ndarray:
    return quaternion_matrix(rng.normal(size=4)) @ np.diag([1, rng.choice((-1, 1)), 1])


@properties
@given(seeds)
def test_frame_change_is_undone_and_keeps_lengths(seed):
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (4, 2, 5))
    change = FrameChange(random_frame(rng), rng.uniform(-1, 1, 3), start=1)
    moved = change.apply(actions, np.zeros((4, 2, 7)))
    np.testing.assert_allclose(change.undo(moved, np.zeros((4, 2, 7))), actions, atol=1e-12)
    assert np.array_equal(moved[..., [0, 4]], actions[..., [0, 4]])
    one, other = (np.linalg.norm(a[1:, 0, 1:4] - a[:-1, 0, 1:4], axis=-1) for a in (moved, actions))
    np.testing.assert_allclose(one, other, atol=1e-12)


@properties
@given(seeds)
def test_base_to_world_and_back_through_the_camera(seed):
    # The same point by two ways: base -> world, and base -> camera -> world.
    rng = np.random.default_rng(seed)
    base_in_world, camera_in_world = (
        FrameChange(quaternion_matrix(rng.normal(size=4)), rng.uniform(-1, 1, 3)) for _ in range(2)
    )
    points, none = rng.uniform(-1, 1, (5, 3)), np.zeros((5, 0))
    in_world = base_in_world.apply(points, none)
    in_camera = Backwards(camera_in_world, XYZ[:3]).apply(in_world, none)
    np.testing.assert_allclose(camera_in_world.apply(in_camera, none), in_world, atol=1e-12)
    np.testing.assert_allclose(base_in_world.undo(in_world, none), points, atol=1e-12)


@properties
@given(seeds)
def test_turned_limits_hold_what_the_limits_held(seed):
    rng = np.random.default_rng(seed)
    change = FrameChange(random_frame(rng), rng.uniform(-1, 1, 3))
    actions = rng.uniform(-0.5, 1.0, (50, 4))
    moved, after = change.apply(actions, np.zeros((50, 0)))[:, :3], change.rename(XYZ)
    low, high = np.array([d.low for d in after[:3]]), np.array([d.high for d in after[:3]])
    assert (moved >= low - 1e-12).all()
    assert (moved <= high + 1e-12).all()
    assert after[3] == GRIPPER


@properties
@given(seeds, st.sampled_from(["joints", "tool"]))
def test_delta_and_absolute_are_undone(seed, reference):
    rng = np.random.default_rng(seed)
    joints, _ = play(rng, 3, 2)
    count = 7 if reference == "joints" else 3
    names = dimensions(*(f"n{i}" for i in range(count)))
    change = DeltaToAbsolute(reference, KINEMATICS, names, start=1)
    deltas = rng.uniform(-0.1, 0.1, (3, 2, count + 2))
    absolute = change.apply(deltas, joints)
    np.testing.assert_allclose(change.undo(absolute, joints), deltas, atol=1e-12)
    start = joints if reference == "joints" else KINEMATICS.forward(joints)[0]
    np.testing.assert_allclose(absolute[..., 1:-1] - deltas[..., 1:-1], start, atol=1e-12)
    assert np.array_equal(absolute[..., [0, -1]], deltas[..., [0, -1]])


@properties
@given(seeds, st.booleans())
def test_poses_come_back_from_joints(seed, turned):
    rng = np.random.default_rng(seed)
    joints, targets = play(rng, 6)
    position, rotation = KINEMATICS.forward(targets)
    parts = [position, matrix_vector(rotation)] if turned else [position]
    poses = np.concatenate([*parts, rng.uniform(0, 0.09, (6, 1))], axis=-1)
    names = dimensions(*(f"joint_{i}" for i in range(1, 8)))
    change = CartesianToJoint(KINEMATICS, names, turned=turned)
    numbers = change.apply(poses, joints)
    assert numbers.shape == (6, 8)
    back = change.undo(numbers, joints)
    np.testing.assert_allclose(back[:, :3], poses[:, :3], atol=1e-8)
    assert np.array_equal(back[:, -1], poses[:, -1])
    if turned:
        turns = [vector_matrix(a[:, 3:6]) for a in (back, poses)]
        np.testing.assert_allclose(*turns, atol=1e-8)
    else:
        held = KINEMATICS.forward(joints)[1]
        np.testing.assert_allclose(KINEMATICS.forward(numbers[:, :7])[1], held, atol=1e-8)


def test_joints_come_back_as_another_posture_of_the_same_pose():
    # Seven joints have one to spare: the pose comes back, the joints need not.
    joints, targets = play(np.random.default_rng(0), 6)
    change = CartesianToJoint(KINEMATICS, panda_numbers(), turned=True)
    poses = change.undo(targets, joints)
    numbers = change.apply(poses, joints)
    np.testing.assert_allclose(change.undo(numbers, joints), poses, atol=1e-7)
    assert np.abs(numbers - targets).max() > 1e-3


def panda_numbers() -> tuple[Dimension, ...]:
    return tuple(
        Dimension(name=j.name, unit="rad", low=j.low, high=j.high) for j in panda_like().joints
    )


@properties
@given(seeds)
def test_order_and_signs_are_undone_to_the_last_bit(seed):
    rng = np.random.default_rng(seed)
    order = tuple(int(i) for i in rng.permutation(4))
    change = Reordered(order, tuple(int(s) for s in rng.choice((-1, 1), 4)), start=1)
    actions = rng.normal(size=(3, 6))
    moved = change.apply(actions, np.zeros((3, 0)))
    assert np.array_equal(change.undo(moved, np.zeros((3, 0))), actions)
    assert np.array_equal(moved[:, [0, 5]], actions[:, [0, 5]])
    before = dimensions(*"abcdef")
    after = change.rename(before)
    for i in range(4):
        old, new = before[1 + order[i]], after[1 + i]
        assert new.name == old.name
        assert (new.low, new.high) == ((old.low, old.high) if change.signs[i] > 0 else (-1.0, 0.5))
        expected = change.signs[i] * actions[:, 1 + order[i]]
        assert np.array_equal(moved[:, 1 + i], expected)


@properties
@given(seeds)
def test_added_numbers_are_undone_to_the_last_bit_and_removed_ones_where_held(seed):
    rng = np.random.default_rng(seed)
    places = tuple(int(i) for i in rng.choice(6, 2, replace=False))
    held = tuple(float(v) for v in rng.normal(size=2))
    change = AddedNumbers(places, dimensions("p", "q"), held)
    actions, none = rng.normal(size=(3, 2, 4)), np.zeros((3, 2, 0))
    more = change.apply(actions, none)
    assert more.shape == (3, 2, 6)
    assert (more[..., list(places)] == held).all()
    assert np.array_equal(change.undo(more, none), actions)
    after = change.rename(dimensions(*"abcd"))
    assert [after[place].name for place in places] == ["p", "q"]
    assert [d.name for d in after if d.name not in "pq"] == list("abcd")

    removal = Backwards(change, dimensions(*"abcd"))
    assert np.array_equal(removal.undo(removal.apply(more, none), none), more)
    assert removal.rename(after) == dimensions(*"abcd")


def test_chain_of_maps_is_undone_from_its_end():
    rng = np.random.default_rng(0)
    joints, _ = play(rng, 5)
    chain = Chained(
        (
            DeltaToAbsolute("tool", KINEMATICS, dimensions("x", "y", "z")),
            FrameChange(random_frame(rng), rng.normal(size=3)),
            AddedNumbers((1,), dimensions("more"), (0.3,)),
        )
    )
    actions = rng.uniform(-0.02, 0.02, (5, 4))
    moved = chain.apply(actions, joints)
    np.testing.assert_allclose(chain.undo(moved, joints), actions, atol=1e-12)
    assert [d.name for d in chain.rename(XYZ)] == ["x", "more", "y", "z", "gripper_opening"]


@pytest.mark.parametrize(
    ("order", "signs", "message"),
    [((0, 2), (1, 1), "permutation"), ((1, 0), (1,), "signs"), ((0, 1), (1, 2), "signs")],
)
def test_reordering_that_is_none_is_refused(order, signs, message):
    with pytest.raises(AugmentationError, match=message):
        Reordered(order, signs)


def test_map_beyond_the_numbers_is_refused():
    with pytest.raises(AugmentationError, match="numbers 2 to 4, but there are 4"):
        FrameChange(np.eye(3), np.zeros(3), start=2).rename(XYZ)


def source(numbering: str) -> tuple[EmbodimentAugmentation, tuple[Dimension, ...]]:
    count = 3 if numbering.startswith("tool") else 7
    names = (*dimensions(*(f"n{i}" for i in range(count))), GRIPPER)
    return EmbodimentAugmentation(panda_like(), numbering, names), names


def actions_of(numbering: str, joints: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Actions that ask for poses the arm can reach, in any numbering."""
    # The tool keeps its rotation, as a position alone asks for: its targets can be reached.
    numbers = targets
    if numbering.startswith("tool"):
        numbers = KINEMATICS.forward(joints)[0] + 0.03 * np.sign(targets - joints)[..., :3]
        joints = KINEMATICS.forward(joints)[0]
    if numbering.endswith("delta"):
        numbers = numbers - joints
    return np.concatenate([numbers, np.full((*numbers.shape[:-1], 1), 0.05)], axis=-1)


@pytest.mark.parametrize("wanted", NUMBERINGS)
@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_every_numbering_becomes_every_other_and_comes_back(numbering, wanted):
    joints, targets = play(np.random.default_rng(0), 5, 2)
    augmentation, names = source(numbering)
    change = augmentation.convert(wanted)
    actions = actions_of(numbering, joints, targets)
    moved = change.apply(actions, joints)
    assert len(change.rename(names)) == moved.shape[-1] == (4 if wanted.startswith("tool") else 8)
    assert change.rename(names)[-1] == GRIPPER
    back = change.undo(moved, joints)
    if numbering.startswith("joint") and wanted.startswith("tool"):
        # The tool's position comes back, not the joints.
        again = change.apply(back, joints)
        np.testing.assert_allclose(again, moved, atol=1e-7)
    else:
        np.testing.assert_allclose(back, actions, atol=1e-7)


def test_conversions_ask_for_the_same_motion():
    joints, targets = play(np.random.default_rng(3), 5)
    tool, aims = KINEMATICS.forward(joints)[0], KINEMATICS.forward(targets)[0]
    from_joints = source("joint_delta")[0]
    displaced = actions_of("joint_delta", joints, targets)
    reached = from_joints.convert("tool_absolute").apply(displaced, joints)
    np.testing.assert_allclose(reached[:, :3], aims, atol=1e-12)
    moved = from_joints.convert("tool_delta").apply(displaced, joints)
    np.testing.assert_allclose(moved[:, :3], aims - tool, atol=1e-12)
    back = source("tool_delta")[0].convert("joint_delta").apply(moved, joints)
    np.testing.assert_allclose(KINEMATICS.forward(joints + back[:, :7])[0], aims, atol=1e-8)


@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_drawn_negatives_are_other_numberings_of_the_same_motion(numbering):
    joints, targets = play(np.random.default_rng(1), 4, 2)
    augmentation, names = source(numbering)
    actions = actions_of(numbering, joints, targets)
    original, _ = normalised(Chained(()), names, actions, joints, 32)
    seen = set()
    for change in augmentation.draw(24, np.random.default_rng(2)):
        numbers, after = normalised(change, names, actions, joints, 32)
        assert numbers.shape == (4, 2, 32)
        assert np.isfinite(numbers).all()
        assert np.abs(numbers - original).max() > 0.05
        assert not numbers[..., len(after) :].any()
        seen.add(tuple(d.name for d in after))
    assert len(seen) > 6


def test_same_seed_draws_the_same_maps_and_shares_decide():
    joints, targets = play(np.random.default_rng(1), 3)
    augmentation, names = source("tool_delta")
    actions = actions_of("tool_delta", joints, targets)
    one, same, other = (
        [m.apply(actions, joints) for m in augmentation.draw(4, np.random.default_rng(seed))]
        for seed in (7, 7, 8)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(
        a.shape == b.shape and np.allclose(a, b) for a, b in zip(one, other, strict=True)
    )
    always = EmbodimentAugmentationConfig(added_share=1.0, removed_share=0.0)
    more = EmbodimentAugmentation(panda_like(), "tool_delta", names, always)
    for change in more.draw(8, np.random.default_rng(0)):
        assert len(change.rename(names)) in {5, 9}


def test_numbering_with_too_few_numbers_is_refused():
    with pytest.raises(AugmentationError, match="joint_delta needs 2 numbers"):
        EmbodimentAugmentation(planar(), "joint_delta", dimensions("one"))


def test_augmentation_takes_what_a_spec_declares():
    plain = small_spec().model_dump(mode="json")
    state = [{"name": f"joint_{i}", "unit": "rad", "low": -3.2, "high": 3.2} for i in (1, 2)]
    with pytest.raises(AugmentationError, match="declares no kinematics"):
        EmbodimentAugmentation.of(small_spec(), "joint_delta")
    chain = planar().model_dump(mode="json")
    spec = RobotSpec.from_mapping(plain | {"state": state, "kinematics": chain})
    moved = EmbodimentAugmentation.of(spec, "joint_absolute").convert("tool_absolute")
    position = moved.apply(np.zeros((1, 2)), np.zeros((1, 2)))
    np.testing.assert_allclose(position, [[0.5, 0.0, 0.1]], atol=1e-12)


@pytest.mark.parametrize(("at", "values"), [((0, 0), (1.0, 2.0)), ((0, 1), (1.0,))])
def test_added_numbers_that_do_not_fit_are_refused(at, values):
    with pytest.raises(AugmentationError, match="a place of its own"):
        AddedNumbers(at, dimensions("p", "q"), values)
