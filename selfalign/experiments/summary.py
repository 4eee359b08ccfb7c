"""From robots to the figures of a cell: success of every method, what was gained, what it took."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from selfalign.experiments.cells import Cell
from selfalign.experiments.paired import Comparison, Rate, compare
from selfalign.experiments.records import RobotRecord
from selfalign.experiments.settings import Settings

_ALIGNED, _BASE, _ORACLE = "aligned", "base", "oracle"


@final
@dataclass(frozen=True)
class CellResult:
    """A cell and its robots, in order of index."""

    cell: Cell
    settings: Settings
    records: tuple[RobotRecord, ...]

    def rate(self, method: str, *, served: bool = True) -> Rate:
        """Success of a method over all robots; `served`: where the gates refuse it, of the base."""
        found = self._successes(method, served=served)
        return Rate(sum(map(sum, found)), sum(map(len, found)))

    def against_base(self, method: str, *, served: bool = True) -> Comparison:
        """A method against the base W, episode by episode."""
        after = self._successes(method, served=served)
        return compare(list(zip(self._successes(_BASE), after, strict=True)))

    @property
    def gap_closed(self) -> float | None:
        """(aligned - base) / (oracle - base); None without an oracle that is better than base."""
        if not {_ALIGNED, _BASE, _ORACLE} <= set(self.settings.methods):
            return None
        base, oracle = self.rate(_BASE).value, self.rate(_ORACLE).value
        return (self.rate(_ALIGNED).value - base) / (oracle - base) if oracle > base else None

    @property
    def worth_demonstrations(self) -> int | None:
        """The most demonstrations whose labels do no better than alignment does without any.

        0 where a single one does better already; None unless both were run.
        """
        counts = {
            int(match[1]): name
            for name in self.settings.methods
            if (match := re.fullmatch(r"demos_([0-9]+)", name))
        }
        if _ALIGNED not in self.settings.methods or not counts:
            return None
        if _ORACLE in self.settings.methods:
            counts[self.settings.oracle.demonstrations] = _ORACLE
        reached = self.rate(_ALIGNED).value
        return max((n for n, name in counts.items() if self.rate(name).value <= reached), default=0)

    @property
    def robots_worse(self) -> int:
        """Robots with fewer successes after alignment and gates than before."""
        pairs = zip(self._successes(_BASE), self._successes(_ALIGNED), strict=True)
        return sum(sum(after) < sum(before) for before, after in pairs)

    @property
    def refused(self) -> int:
        """Robots whose aligned W the gates refuse."""
        return sum(not r.verdicts[_ALIGNED].passed for r in self.records if _ALIGNED in r.verdicts)

    @property
    def align_s(self) -> float | None:
        """Mean seconds from play to W, by the wall."""
        return _mean([record.align_s for record in self.records])

    @property
    def align_cpu_s(self) -> float | None:
        """Mean processor seconds from play to W."""
        return _mean([record.align_cpu_s for record in self.records])

    def _successes(self, method: str, *, served: bool = True) -> list[tuple[bool, ...]]:
        return [
            record.served(method) if served else record.success[method] for record in self.records
        ]


def as_json(result: CellResult) -> dict[str, Any]:
    """A cell as plain values, its robots included. Success as shares of 1."""
    cell, settings = result.cell, result.settings
    methods = {
        name: _method(result, name) for name in settings.methods if name not in {_BASE, _ORACLE}
    }
    shares = {
        name: _rounded(result.rate(name).value) if name in settings.methods else None
        for name in (_BASE, _ALIGNED, _ORACLE)
    }
    return {
        "scenario": cell.scenario,
        "cell": cell.name,
        "placement": cell.placement,
        "family": cell.family,
        "arm": cell.arm,
        "task": cell.task,
        "split": settings.split,
        "seed": settings.seed,
        **shares,
        "base_interval": _interval(result.rate(_BASE)),
        "aligned_interval": (
            _interval(result.rate(_ALIGNED)) if _ALIGNED in settings.methods else None
        ),
        "oracle_interval": (
            _interval(result.rate(_ORACLE)) if _ORACLE in settings.methods else None
        ),
        "gap_closed": _rounded(result.gap_closed),
        "worth_demonstrations": result.worth_demonstrations,
        "episodes": result.rate(_BASE).episodes,
        "robots": len(result.records),
        "robots_worse": result.robots_worse if _ALIGNED in settings.methods else None,
        "refused": result.refused if _ALIGNED in settings.methods else None,
        "play_s": settings.play_seconds,
        "steps": settings.steps,
        "align_s": _rounded(result.align_s),
        "align_cpu_s": _rounded(result.align_cpu_s),
        "methods": methods,
        "records": [record.model_dump(mode="json") for record in result.records],
    }


def _method(result: CellResult, name: str) -> dict[str, Any]:
    """A method as it would serve, and `ungated` as if nothing were refused."""
    served, ungated = result.against_base(name), result.against_base(name, served=False)
    low, high = served.gain_interval
    return {
        "success": _rounded(served.after.value),
        "interval": _interval(served.after),
        "ungated": _rounded(ungated.after.value),
        "ungated_interval": _interval(ungated.after),
        "gain_interval": [_rounded(low), _rounded(high)],
        "better": served.improved,
        "worse": served.worsened,
        "p_value": served.p_value,
        "ungated_better": ungated.improved,
        "ungated_worse": ungated.worsened,
    }


def _interval(rate: Rate) -> list[float | None]:
    return [_rounded(end) for end in rate.interval]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
