"""Transitions: never over a gap, never beyond the end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.data.transitions import TransitionError, robot_starts, transition_starts
from tests.fakes.target_robot import PERIOD_NS, target_spec

PERIOD = 100


def starts(times, *, stride=1, length=None, **more):
    length = len(times) if length is None else length
    found = transition_starts(
        np.array(times, np.int64), length, stride=stride, period_ns=PERIOD, **more
    )
    return found.tolist()


def test_regular_steps_all_start_a_transition_but_the_last_stride():
    assert starts([0, 100, 200, 300, 400], stride=2) == [0, 1, 2]


def test_no_transition_crosses_a_gap():
    assert starts([0, 100, 200, 500, 600, 700], stride=2) == [0, 3]


def test_clock_set_back_is_a_gap():
    assert starts([1000, 1100, 50, 150]) == [0, 2]


def test_repeated_or_hasty_steps_are_gaps():
    assert starts([0, 0, 100, 110, 210]) == [1, 3]


def test_jitter_within_the_tolerance_is_no_gap():
    assert starts([0, 149, 200, 300]) == [0, 1, 2]
    assert starts([0, 151, 251]) == [1]
    assert starts([0, 120, 220], tolerance=0.1) == [1]


@pytest.mark.parametrize("length", [0, 1, 2])
def test_episode_shorter_than_a_transition_has_none(length):
    assert starts([0, 100, 200, 300], length=length, stride=2) == []


def test_steps_beyond_the_length_do_not_count():
    assert starts([0, 100, 200, 300], length=2) == [0]


def test_empty_episode_has_no_transition():
    assert starts([]) == []


def test_huge_time_stamps_do_not_overflow():
    big = 2**63 - 1
    assert starts([big - 200, big - 100, big]) == [0, 1]


@settings(deadline=None, max_examples=50)
@given(
    elapsed=st.lists(st.sampled_from([100, 120, 300, -50, 0]), max_size=30),
    stride=st.integers(1, 5),
)
def test_equals_the_plain_definition(elapsed, stride):
    times = np.concatenate([[0], np.cumsum(elapsed)]).astype(np.int64)
    good = [abs(e - PERIOD) <= 0.5 * PERIOD for e in elapsed]
    expected = [i for i in range(len(times) - stride) if all(good[i : i + stride])]
    assert starts(times, stride=stride) == expected


@settings(deadline=None, max_examples=50)
@given(missing=st.sets(st.integers(0, 12)), stride=st.integers(1, 4))
def test_a_robot_with_targets_needs_the_command_before_its_transitions(missing, stride):
    """Steps of a regular clock, some never recorded: a step is known by its moment."""
    moments = [t for t in range(13) if t not in missing]
    t_ns = np.array(moments, np.int64) * PERIOD_NS
    plain, targets = (
        robot_starts(spec, t_ns, len(t_ns), stride=stride).tolist()
        for spec in (target_spec(twin=True), target_spec())
    )
    there = {moment: row for row, moment in enumerate(moments)}
    whole = [t for t in moments if all(t + k in there for k in range(stride + 1))]
    assert plain == [there[t] for t in whole]
    assert targets == [there[t] for t in whole if t - 1 in there]


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 0},
        {"period_ns": 0},
        {"period_ns": -1},
        {"tolerance": -0.1},
        {"tolerance": 1.0},
        {"tolerance": float("nan")},
        {"length": 4},
        {"length": -1},
        {"t_ns": np.zeros(3)},
        {"t_ns": np.zeros((3, 1), np.int64)},
    ],
)
def test_wrong_parameter_is_refused(change):
    arguments = {"t_ns": np.arange(3), "length": 3, "stride": 1, "period_ns": 1} | change
    with pytest.raises(TransitionError):
        transition_starts(**arguments)
