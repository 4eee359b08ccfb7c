"""Gates against truth, on robots made up for it."""

import numpy as np
import pytest

from selfalign.experiments.calibration import auc, calibrate, pearson, spearman
from selfalign.experiments.records import Check, RobotRecord, Verdict
from selfalign.experiments.tables import calibration_tables


def robot(index: int, *, before: int, after: int, loss: float, passed: bool) -> RobotRecord:
    """Of four starts, so many won; the held-out total falls from 1 to `loss`."""
    check = Check(name="held_out_total", passed=passed, value=loss, limit=0.9)
    losses = {"total": loss}
    return RobotRecord(
        index=index,
        robot=str(index),
        description="",
        starts=(1, 2, 3, 4),
        success={
            "base": tuple(i < before for i in range(4)),
            "aligned": tuple(i < after for i in range(4)),
        },
        verdicts={
            "aligned": Verdict(
                passed=passed,
                checks=(check,),
                held_out_before={"total": 1.0},
                held_out_after=losses,
                train_before={"total": 2.0},
                train_after=losses,
            )
        },
        play_s=13.0,
        align_s=1.0,
        align_cpu_s=1.0,
    )


ROBOTS = [
    robot(0, before=0, after=4, loss=0.1, passed=True),
    robot(1, before=1, after=3, loss=0.2, passed=True),
    robot(2, before=2, after=1, loss=0.3, passed=True),
    robot(3, before=0, after=2, loss=0.95, passed=False),
    robot(4, before=2, after=2, loss=1.2, passed=False),
]


def test_precision_and_recall() -> None:
    found = calibrate(ROBOTS)
    assert found.table == {
        (True, "better"): 2,
        (True, "equal"): 0,
        (True, "worse"): 1,
        (False, "better"): 1,
        (False, "equal"): 1,
        (False, "worse"): 0,
    }
    assert found.precision == pytest.approx(2 / 3)
    assert found.harmless == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.checks["held_out_total"] == {"better": 1, "equal": 1, "worse": 0}


def test_a_rival_that_was_judged_counts_too() -> None:
    rival = ROBOTS[1].model_copy(
        update={
            "success": {**ROBOTS[1].success, "random_w": (False,) * 4},
            "verdicts": {**ROBOTS[1].verdicts, "random_w": ROBOTS[4].verdicts["aligned"]},
        }
    )
    found = calibrate([ROBOTS[0], rival])
    assert found.table[True, "better"] == 2
    assert found.table[False, "worse"] == 1
    assert rival.served("random_w") == (False,) * 4


def test_what_a_measure_knows_of_the_truth() -> None:
    found = calibrate(ROBOTS)
    # Better at 0.1, 0.2, 0.95; not at 0.3, 1.2: five of six pairs the right way round.
    assert found.auc["held_out total"] == pytest.approx(5 / 6)
    assert found.auc["train total ratio"] == pytest.approx(5 / 6)
    # Successes 4, 3, 1, 2, 2 against losses in rising order: by hand, ties at rank 1.5.
    assert found.spearman["held_out total"] == pytest.approx(-0.66689, abs=1e-4)


def test_nothing_is_claimed_of_nothing() -> None:
    found = calibrate([])
    assert (found.precision, found.recall, found.auc) == (None, None, {})
    assert calibrate(ROBOTS[:1]).auc["held_out total"] is None


def test_rank_correlation_with_ties() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 5.0]), np.array([3.0, 3.0, 4.0, 9.0])
    # Ranks 0 1.5 1.5 3 and 0.5 0.5 2 3: covariance 3.75 (sums of products), spreads 4.5 and 4.5.
    assert spearman(x, y) == pytest.approx(3.75 / 4.5)
    assert spearman(x, np.ones(4)) is None


def test_correlation_leaves_out_what_is_not_finite() -> None:
    x = np.array([1.0, 2.0, np.nan, 3.0])
    assert pearson(x, np.array([2.0, 4.0, -9.0, 6.0])) == pytest.approx(1.0)


def test_auc_counts_ties_half() -> None:
    score = np.array([1.0, 1.0, 2.0])
    assert auc(score, np.array([False, True, True])) == pytest.approx(0.75)
    assert auc(score, np.array([True, True, True])) is None


def test_steps_of_early_stop_are_told_beside_the_gates() -> None:
    chosen = [{"early_stop": n} for n in (5, 50, 50, 100)]
    robots = [r.model_copy(update={"steps": s}) for r, s in zip(ROBOTS, chosen, strict=False)]
    found = calibrate(robots)
    assert found.early_steps == (5, 50, 50, 100)
    text = calibration_tables(found)
    assert "a median of 50 steps (robots by steps: 5 steps: 1, 50 steps: 2, 100 steps: 1)" in text
    assert "Held-out loss and success: correlation" in text
    assert "Early stop" not in calibration_tables(calibrate(ROBOTS))
