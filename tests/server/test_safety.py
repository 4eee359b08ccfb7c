from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from selfalign.data.spec import RobotSpec
from selfalign.data.target_steps import TargetSteps
from selfalign.errors import SpecError
from server.safety import ActionLimits, NonFiniteAction
from server.wire.problems import WireError
from tests.fakes.running import arm_spec

ANY_CHUNK = hnp.arrays(np.float32, (4, 2), elements=st.floats(width=32))
FINITE_CHUNK = hnp.arrays(
    np.float32, (4, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([1.0, 0.5], np.float32)


def _chunk(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_a_chunk_within_limits_passes_bit_for_bit() -> None:
    chunk = _chunk((0.3, 0.1), (-1.0, 0.5))

    safe = ActionLimits(arm_spec()).apply(chunk, None)

    assert safe.actions.tobytes() == chunk.tobytes()
    assert safe.clamped_dims == []


def test_a_value_beyond_its_limit_is_clamped_and_named() -> None:
    safe = ActionLimits(arm_spec()).apply(_chunk((0.0, 0.1), (0.0, 0.9)), None)

    assert safe.actions.tolist() == [[0.0, np.float32(0.1)], [0.0, 0.5]]
    assert safe.clamped_dims == ["grip"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_condemns_the_chunk(bad: float) -> None:
    with pytest.raises(NonFiniteAction, match=r"'grip', step 1 of the chunk.*rejected"):
        ActionLimits(arm_spec()).apply(_chunk((0.0, 0.0), (0.0, bad)), None)


@given(ANY_CHUNK)
@settings(deadline=None, max_examples=200)
def test_whatever_leaves_is_finite_and_within_limits(chunk: np.ndarray) -> None:
    try:
        safe = ActionLimits(arm_spec(max_step=(0.25, None))).apply(chunk, None)
    except NonFiniteAction:
        assert not np.isfinite(chunk).all()
        return

    assert np.isfinite(chunk).all()
    assert ((safe.actions >= LOW) & (safe.actions <= HIGH)).all()


@given(FINITE_CHUNK, hnp.arrays(np.float32, 2, elements=st.floats(-3, 3, width=32)))
@settings(deadline=None, max_examples=200)
def test_no_command_jumps_further_than_max_step(chunk: np.ndarray, previous: np.ndarray) -> None:
    safe = ActionLimits(arm_spec(max_step=(0.25, 0.125))).apply(chunk, previous)

    path = np.vstack([np.clip(previous, LOW, HIGH), safe.actions]).astype(np.float64)
    # one rounding of float32 at 1.0
    assert (np.abs(np.diff(path, axis=0)) <= np.array([0.25, 0.125]) + 1e-6).all()
    assert ((safe.actions >= LOW) & (safe.actions <= HIGH)).all()


def test_a_jump_is_spread_over_the_chunk_and_named() -> None:
    limits = ActionLimits(arm_spec(max_step=(0.25, None)))

    safe = limits.apply(_chunk((0.0, 0.0), (1.0, 0.5), (1.0, 0.5)), None)

    assert safe.actions[:, 0].tolist() == [0.0, 0.25, 0.5]
    assert safe.actions[:, 1].tolist() == [0.0, 0.5, 0.5]
    assert safe.slowed == ("dx",)
    assert safe.limited == ()


def test_the_first_command_is_bounded_by_the_previous_one_if_it_is_known() -> None:
    limits = ActionLimits(arm_spec(max_step=(0.25, None)))

    assert limits.apply(_chunk((1.0, 0.0)), None).actions[0, 0] == 1.0
    assert limits.apply(_chunk((1.0, 0.0)), np.zeros(2, np.float32)).actions[0, 0] == 0.25


def test_an_action_whose_last_command_is_not_known_may_begin_anywhere() -> None:
    limits = ActionLimits(arm_spec(max_step=(0.25, 0.1)))
    safe = limits.apply(_chunk((1.0, 0.5), (1.0, 0.0)), np.array([0.0, np.nan], np.float32))
    np.testing.assert_allclose(safe.actions, [[0.25, 0.5], [0.5, 0.4]], atol=1e-6)


@given(FINITE_CHUNK, hnp.arrays(np.float32, 2, elements=st.floats(-3, 3, width=32)))
@settings(deadline=None, max_examples=100)
def test_targets_are_limited_to_the_running_sum_of_limited_changes(
    changes: np.ndarray, previous: np.ndarray
) -> None:
    """What the policy's steps add up to and what the limits leave of it are one path."""
    spec = arm_spec(max_step=(0.25, 0.125), targets=("dx", "grip"))
    chunk = TargetSteps(spec).targets(changes[None], previous[None])[0]
    safe = ActionLimits(spec).apply(chunk, previous)

    place = np.clip(previous.astype(np.float64), LOW, HIGH)
    for change, action in zip(changes, safe.actions, strict=True):
        place = np.clip(place + np.clip(change, [-0.25, -0.125], [0.25, 0.125]), LOW, HIGH)
        np.testing.assert_allclose(action, place, atol=1e-5)
    free = np.abs(changes) < 0.0025
    for column, name in enumerate(("dx", "grip")):
        is_inside = LOW[column] + 0.02 < previous[column] < HIGH[column] - 0.02
        if is_inside and free[:, column].all():
            assert name not in safe.clamped_dims
        if (np.abs(changes[:, column]) > 0.26).any():
            # Further than the largest step of both.
            assert name in safe.clamped_dims


@pytest.mark.parametrize("previous", [np.array([np.nan, 0.0], np.float32), np.zeros(3, np.float32)])
def test_a_bad_previous_command_is_refused(previous: np.ndarray) -> None:
    with pytest.raises(WireError, match="previous_action must be 2 finite numbers"):
        ActionLimits(arm_spec(max_step=(0.25, None))).checked(previous)


def test_the_chunk_of_the_policy_is_not_written_to() -> None:
    chunk = _chunk((5.0, 0.0), (-5.0, 0.0))

    ActionLimits(arm_spec(max_step=(0.25, None))).apply(chunk, None)

    assert chunk.tolist() == [[5.0, 0.0], [-5.0, 0.0]]


def _unchecked(**changes: Any) -> RobotSpec:
    """A spec as no file can hold it: its own check was gone round."""
    return arm_spec().model_copy(update=changes)


@pytest.mark.parametrize("limit", [np.nan, np.inf, -1.0])
def test_a_limit_that_switches_itself_off_is_refused(limit: float) -> None:
    dx, grip = arm_spec().action
    spec = _unchecked(action=(dx.model_copy(update={"high": limit}), grip))

    with pytest.raises(SpecError, match="'dx' of robot 'arm' needs finite limits"):
        ActionLimits(spec)


@pytest.mark.parametrize("step", [np.nan, 0.0, -1.0])
def test_a_max_step_that_switches_itself_off_is_refused(step: float) -> None:
    with pytest.raises(SpecError, match="must be positive"):
        ActionLimits(_unchecked(max_step=(step, None)))
