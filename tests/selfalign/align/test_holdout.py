"""Held-out play shares no frame with what W is trained on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.align.holdout import split_held_out


def rows(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int64)


def held_share(splits: list) -> float:
    held = sum(len(split.held_out) for split in splits)
    return held / (held + sum(len(split.train) for split in splits))


def test_several_episodes_are_split_by_whole_episodes() -> None:
    splits = split_held_out([rows(50) for _ in range(5)], stride=1)
    assert sorted(len(split.held_out) for split in splits) == [0, 0, 0, 0, 50]
    assert all(len(split.train) == 0 or len(split.held_out) == 0 for split in splits)
    assert held_share(splits) == pytest.approx(0.2)


def stretches(held_out: np.ndarray) -> list[np.ndarray]:
    return np.split(held_out, np.flatnonzero(np.diff(held_out) > 1) + 1)


def test_little_play_is_judged_by_one_stretch_with_a_gap() -> None:
    (split,) = split_held_out([rows(100)], stride=4)
    (stretch,) = stretches(split.held_out)
    assert 15 <= len(stretch) <= 25
    assert split.train[split.train < stretch[0]].max() + 4 < stretch[0]
    assert split.train[split.train > stretch[-1]].min() > stretch[-1] + 4


def test_play_of_13_s_is_judged_at_four_times() -> None:
    (split,) = split_held_out([rows(128)], stride=2)
    found = stretches(split.held_out)
    assert len(found) == 4
    assert all(len(stretch) >= 6 for stretch in found)
    assert len(split.train) > 80
    # One in each quarter.
    assert [int(stretch.mean()) // 32 for stretch in found] == [0, 1, 2, 3]


def test_long_play_is_judged_at_eight_times() -> None:
    (split,) = split_held_out([rows(4000)], stride=2)
    assert len(stretches(split.held_out)) == 8


def test_very_unequal_episodes_are_split_by_time() -> None:
    splits = split_held_out([rows(500), rows(5)], stride=1)
    assert len(splits[0].train) > 0
    assert len(splits[0].held_out) > 0
    assert 0.1 < held_share(splits) < 0.4


def test_nothing_gives_nothing() -> None:
    assert split_held_out([], stride=1) == []
    (split,) = split_held_out([rows(0)], stride=1)
    assert (len(split.train), len(split.held_out)) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 300), unique=True), max_size=6),
    st.integers(1, 8),
)
def test_no_row_is_in_both_parts(episodes: list[list[int]], stride: int) -> None:
    starts = [np.array(sorted(episode), dtype=np.int64) for episode in episodes]
    for given_rows, split in zip(starts, split_held_out(starts, stride=stride), strict=True):
        used = {int(row) + k for row in split.train for k in range(stride + 1)}
        judged = {int(row) + k for row in split.held_out for k in range(stride + 1)}
        assert not used & judged
        assert set(split.train) | set(split.held_out) <= set(given_rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_enough_play_always_leaves_something_to_judge_by(counts: list[int]) -> None:
    splits = split_held_out([rows(count) for count in counts], stride=1)
    if sum(counts) >= 32:
        assert 0.08 <= held_share(splits) <= 0.45
