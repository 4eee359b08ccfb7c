"""How well the gates tell a W that acts better from one that does not, on robots of validation.

The truth of a W is the successes of its robot with it against those with the base W. Beside aligned
W, W that should be refused can be judged: of another robot, from shuffled play, random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from selfalign.experiments.records import RobotRecord, Verdict


@final
@dataclass(frozen=True)
class Calibration:
    """Robots by what the gates said and what became of them; measures against the truth.

    `table` is counts by (promoted, truth); `checks` counts the failures of each check by truth.
    `auc` says for each measure how often it is lower for a robot that got better than for one that
    did not (0.5: it knows nothing), `spearman` its rank correlation with the success of the W.
    `early_steps` are the steps that early stop would take, one a robot where it was run.
    """

    table: dict[tuple[bool, str], int]
    checks: dict[str, dict[str, int]]
    auc: dict[str, float | None]
    spearman: dict[str, float | None]
    pearson: dict[str, float | None]
    early_steps: tuple[int, ...] = ()

    @property
    def precision(self) -> float | None:
        """Of the promoted robots, the share that got better."""
        return _share(self.table[True, "better"], self._row(True))

    @property
    def harmless(self) -> float | None:
        """Of the promoted robots, the share that did not get worse."""
        promoted = self._row(True)
        return _share(promoted - self.table[True, "worse"], promoted)

    @property
    def recall(self) -> float | None:
        """Of the robots that got better, the share that was promoted."""
        better = self.table[True, "better"]
        return _share(better, better + self.table[False, "better"])

    def _row(self, promoted: bool) -> int:  # noqa: FBT001 - a key of the table
        return sum(self.table[promoted, truth] for truth in TRUTHS)


_EARLY = "early_stop"
TRUTHS = ("better", "equal", "worse")


def calibrate(records: Sequence[RobotRecord]) -> Calibration:
    """Hold the verdicts on aligned W, and on rivals that were judged, against what robots did."""
    table = {(promoted, truth): 0 for promoted in (True, False) for truth in TRUTHS}
    checks: dict[str, dict[str, int]] = {}
    rows = []
    judged = [(record, name) for record in records for name in record.verdicts]
    for record, name in judged:
        verdict, truth = record.verdicts[name], truth_of(record, name)
        table[verdict.passed, truth] += 1
        for check in verdict.checks:
            failures = checks.setdefault(check.name, dict.fromkeys(TRUTHS, 0))
            failures[truth] += not check.passed
        rows.append(measures(verdict))
    is_better = np.array([truth_of(record, name) == "better" for record, name in judged])
    success = np.array([np.mean(record.success[name]) for record, name in judged])
    columns = {
        name: np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)
        for name in (rows[0] if rows else {})
    }
    return Calibration(
        table,
        checks,
        auc={name: auc(-values, is_better) for name, values in columns.items()},
        spearman={name: spearman(values, success) for name, values in columns.items()},
        pearson={name: pearson(values, success) for name, values in columns.items()},
        early_steps=tuple(r.steps[_EARLY] for r in records if _EARLY in r.steps),
    )


def truth_of(record: RobotRecord, method: str) -> str:
    """What becomes of a robot with the W of a method, whether it was promoted or not."""
    gain = sum(record.success[method]) - sum(record.success["base"])
    return "better" if gain > 0 else "worse" if gain < 0 else "equal"


def measures(verdict: Verdict) -> dict[str, float | None]:
    """Everything that a gate could look at: losses after, their ratio to before, other checks."""
    found: dict[str, float | None] = {}
    for part, before, after in (
        ("held_out", verdict.held_out_before, verdict.held_out_after),
        ("train", verdict.train_before, verdict.train_after),
    ):
        for name, value in after.items():
            found[f"{part} {name}"] = value
            old = before.get(name)
            is_known = value is not None and old is not None and old > 0
            found[f"{part} {name} ratio"] = value / old if is_known else None  # type: ignore[operator]
    for check in verdict.checks:
        if check.name in {"relative_delta", "action_deviation", "actions_outside"}:
            found[check.name] = check.value
    return found


def auc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Chance that a positive [n] has a higher score [n] than a negative; ties count half."""
    known = np.isfinite(score)
    high, low = score[known & positive], score[known & ~positive]
    if len(high) == 0 or len(low) == 0:
        return None
    return float(np.mean((np.sign(high[:, None] - low[None, :]) + 1) / 2))


def pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """Linear correlation of two vectors [n]; None where one of them is constant."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Correlation of the ranks of two vectors [n], ties at their mean rank."""
    known = np.isfinite(x) & np.isfinite(y)
    return pearson(_ranks(x[known]), _ranks(y[known]))


def as_json(found: Calibration) -> dict[str, Any]:
    """As plain values."""
    return {
        "precision": found.precision,
        "harmless": found.harmless,
        "recall": found.recall,
        "table": {
            f"{'promoted' if promoted else 'refused'} {truth}": count
            for (promoted, truth), count in found.table.items()
        },
        "failed_checks": found.checks,
        "auc": found.auc,
        "spearman": found.spearman,
        "pearson": found.pearson,
        "early_stop_steps": found.early_steps,
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    del unique
    ends = counts.cumsum()
    return ((ends - counts + ends - 1) / 2)[inverse]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
