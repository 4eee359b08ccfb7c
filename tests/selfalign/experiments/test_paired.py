"""The statistics of the demonstration, against values worked out elsewhere."""

import pytest

from selfalign.experiments.paired import Comparison, Rate, compare


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        # Expected values: the Wilson interval of scipy 1.17, `binomtest(...).proportion_ci`.
        (0, 50, 0.0, 0.07135),
        (45, 50, 0.78640, 0.95652),
        (50, 50, 0.92865, 1.0),
        (1, 4, 0.04559, 0.69936),
    ],
)
def test_wilson_intervals(successes: int, episodes: int, low: float, high: float) -> None:
    assert Rate(successes, episodes).interval == pytest.approx((low, high), abs=2e-5)


def test_pairs_are_counted_by_what_became_of_them() -> None:
    found = compare([([False, False, True, True], [True, False, True, False])])
    assert (found.before.successes, found.after.successes) == (2, 2)
    assert (found.improved, found.worsened) == (1, 1)
    assert found.p_value == 1.0


def test_mcnemar_is_the_exact_binomial_test() -> None:
    found = compare([([False] * 6, [True] * 6)])
    assert found.p_value == pytest.approx(2 / 64)
    mixed = compare([([False] * 9 + [True], [True] * 9 + [False])])
    assert mixed.p_value == pytest.approx(2 * (1 + 10) / 1024)


def test_no_change_at_all_is_no_evidence() -> None:
    assert compare([([True, False], [True, False])]).p_value == 1.0


def test_the_gain_interval_is_newcombes() -> None:
    # Worked out by hand: no correlation, so the square root of summed squares of Wilson's parts.
    all_better = compare([([False] * 6, [True] * 6)])
    part = 3.841459 / (6 + 3.841459)
    assert all_better.gain_interval == pytest.approx((1 - part * 2**0.5, 1.0), abs=1e-5)
    # Pairs that agree narrow it: phi = (20 * 20 - 0 - 25) / 600 of 40 + 10 pairs.
    groups = [([True] * 20 + [False] * 30, [True] * 30 + [False] * 20)]
    before, after = compare(groups).before.interval, compare(groups).after.interval
    phi = (20 * 20 - 25) / 600
    down, up = (0.6 - after[0], before[1] - 0.4), (0.4 - before[0], after[1] - 0.6)
    expected = [
        0.2 + sign * (x**2 - 2 * phi * x * y + y**2) ** 0.5
        for sign, (x, y) in ((-1, down), (1, up))
    ]
    assert compare(groups).gain_interval == pytest.approx(expected)


def test_no_success_at_all_is_not_certainty() -> None:
    low, high = compare([([False] * 4, [False] * 4)]).gain_interval
    assert low < -0.4
    assert high > 0.4


def test_episodes_of_one_robot_are_not_taken_for_independent_ones() -> None:
    # Half of the robots gain all, half gain nothing: only the robots vary.
    gains, none = ([False] * 10, [True] * 10), ([False] * 10, [False] * 10)
    by_robot = compare([gains, none] * 4)
    by_episode = Comparison((tuple(by_robot.all_pairs),))
    width = [high - low for low, high in (by_robot.gain_interval, by_episode.gain_interval)]
    assert width[0] > 2 * width[1]
    assert by_robot.gain_interval == by_robot.gain_interval, "repeatable"


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare([([True, False], [True])])
