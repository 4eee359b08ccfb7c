"""The statistics of the demonstration, against values worked out elsewhere."""

import pytest

from deploy.demo.paired import Comparison, Rate, compare


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


def test_the_gain_interval_holds_the_gain_and_is_repeatable() -> None:
    found = compare([([False] * 20, [True] * 15 + [False] * 5)])
    low, high = found.gain_interval()
    assert low < 0.75 < high
    assert (low, high) == found.gain_interval()


def test_episodes_of_one_robot_are_not_taken_for_independent_ones() -> None:
    # Half of the robots gain all, half gain nothing: only the robots vary.
    gains, none = ([False] * 10, [True] * 10), ([False] * 10, [False] * 10)
    by_robot = compare([gains, none] * 4)
    by_episode = Comparison((tuple(by_robot.all_pairs),))
    width = [high - low for low, high in (by_robot.gain_interval(), by_episode.gain_interval())]
    assert width[0] > 2 * width[1]


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare([([True, False], [True])])
