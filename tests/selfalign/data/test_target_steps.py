"""Targets as changes since the last command, and back: equal to a loop by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.data.normalisation import Normaliser
from selfalign.data.observation import ObservationMismatch
from selfalign.data.target_steps import TargetSteps
from tests.fakes.target_robot import STEP, target_spec

SPEC = target_spec()
numbers = st.floats(-2, 4, width=32)
chunks = st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5)


def test_a_robot_without_targets_has_none() -> None:
    assert TargetSteps.of(target_spec(twin=True)) is None


def test_max_step_is_what_becomes_one() -> None:
    normaliser = Normaliser.for_action(SPEC, width=4)
    shown = normaliser.normalise([STEP[0], -STEP[1], 0.5])
    np.testing.assert_allclose(shown, [1.0, -1.0, 0.0, 0.0], atol=1e-7)


@settings(deadline=None, max_examples=50)
@given(rows=chunks, last=st.tuples(numbers, numbers, numbers))
def test_changes_are_differences_of_consecutive_commands(
    rows: list[tuple[float, float, float]], last: tuple[float, float, float]
) -> None:
    actions = np.array([rows], np.float32)
    found = TargetSteps(SPEC).changes(actions, np.array([last], np.float32))[0]
    before = last
    for row, change in zip(rows, found, strict=True):
        assert change[:2] == pytest.approx([row[0] - before[0], row[1] - before[1]], abs=1e-6)
        assert change[2] == np.float32(row[2])
        before = row


@settings(deadline=None, max_examples=50)
@given(rows=chunks, last=st.tuples(numbers, numbers, numbers))
def test_targets_go_on_from_what_the_limits_leave(
    rows: list[tuple[float, float, float]], last: tuple[float, float, float]
) -> None:
    """A loop over scalars, as a robot would be limited: to its range, then to its largest step."""
    changes = np.array([rows], np.float32)
    found = TargetSteps(SPEC).targets(changes, np.array([last], np.float32))[0]
    for column, step in enumerate(STEP):
        place = min(max(last[column], -1.0), 3.0)
        for row, target in zip(rows, found, strict=True):
            assert target[column] == pytest.approx(place + row[column], abs=1e-5)
            allowed = min(max(target[column], -1.0), 3.0)
            place = min(max(allowed, place - step), place + step)
    np.testing.assert_array_equal(found[:, 2], changes[0, :, 2])


@settings(deadline=None, max_examples=30)
@given(shares=st.lists(st.tuples(*[st.floats(-1, 1)] * 2), min_size=1, max_size=4))
def test_targets_undo_changes(shares: list[tuple[float, float]]) -> None:
    steps = TargetSteps(SPEC)
    last = np.array([[1.0, 1.0, np.nan]], np.float32)
    within = np.clip(1 + np.cumsum(np.array(shares) * STEP, 0), -1, 3)
    actions = np.column_stack([within, np.zeros(len(shares))])[None].astype(np.float32)
    again = steps.targets(steps.changes(actions, last), last)
    np.testing.assert_allclose(again, actions, atol=1e-6)


def test_what_is_not_finite_stays_so_to_the_end_of_its_chunk() -> None:
    changes = np.zeros((2, 3, 3), np.float32)
    changes[0, 1, 0] = np.nan
    found = TargetSteps(SPEC).targets(changes, np.ones((2, 3), np.float32))
    assert np.isnan(found[0, :, 0]).tolist() == [False, True, True]
    assert np.isfinite(found[:, :, 1:]).all()
    assert np.isfinite(found[1]).all()


def test_the_last_command_is_the_one_given() -> None:
    given_command = np.array([0.5, 2.0, 0.3], np.float32)
    for spec in (SPEC, target_spec(measured=True)):
        last = TargetSteps(spec).last(np.zeros(3, np.float32), given_command)
        np.testing.assert_array_equal(last, given_command)


def test_without_one_the_measured_place_stands_in_by_name() -> None:
    last = TargetSteps(target_spec(measured=True)).last(np.array([2.0, 0.9, -0.5]), None)
    np.testing.assert_array_equal(last, np.array([-0.5, 2.0, np.nan], np.float32))


def test_what_is_continued_says_where_a_lagging_arm_was_last_sent() -> None:
    steps, state = TargetSteps(target_spec(measured=True)), np.array([2.0, 0.9, -0.5])
    far, near = np.array([[1.0, 1.0, 0.0]] * 2), np.array([[-0.4, 2.1, 0.0]])
    np.testing.assert_allclose(steps.last(state, None, far), [0.5, 1.25, np.nan])
    np.testing.assert_allclose(steps.last(state, None, near), [-0.5, 2.0, np.nan])
    np.testing.assert_array_equal(steps.last(state, np.zeros(3), far), np.zeros(3))


def other_unit(unit: str) -> TargetSteps:
    spec = target_spec(measured=True)
    state = (spec.state[0].model_copy(update={"unit": unit}), *spec.state[1:])
    return TargetSteps(spec.model_copy(update={"state": state}))


@pytest.mark.parametrize("steps", [TargetSteps(SPEC), other_unit("mm")])
def test_without_one_and_unmeasured_it_is_asked_for(steps: TargetSteps) -> None:
    with pytest.raises(ObservationMismatch, match="before the first command, the pose") as caught:
        steps.last(np.zeros(3, np.float32), None)
    assert caught.value.field == "previous_action"
    assert "x, y are targets" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([0.0, 0.0], "expected 3 numbers, one for each action"),
        ([0.0, np.nan, 0.0], r"previous_action\[1\] \(y\): expected finite number in m"),
        ([500.0, 0.0, 0.0], r"previous_action\[0\] \(x\).*near the declared limits \[-1.0, 3.0\]"),
    ],
)
def test_a_command_that_is_none_is_refused(command: list[float], message: str) -> None:
    with pytest.raises(ObservationMismatch, match=message):
        TargetSteps(SPEC).last(np.zeros(3), np.array(command, np.float32))


def test_a_gripper_nobody_knows_is_no_mistake() -> None:
    command = np.array([0.0, 0.0, np.nan], np.float32)
    assert TargetSteps(SPEC).last(np.zeros(3), command) is command
