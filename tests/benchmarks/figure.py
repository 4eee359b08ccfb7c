"""One figure of a benchmark: a number, its unit, and the goal it is held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Figure:
    """A measured number. `better` says on which side of `goal` it should lie, if it has one."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    better: Literal["lower", "higher"] = "lower"
    details: dict[str, object] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal

    def line(self) -> str:
        """The figure as one line of JSON."""
        record: dict[str, object] = {
            "figure": self.name,
            "value": rounded(self.value),
            "unit": self.unit,
        }
        if self.goal is not None:
            sign = "<=" if self.better == "lower" else ">="
            record |= {"goal": f"{sign} {self.goal:g}", "met": self.met}
        return json.dumps(record | self.details)


def rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile of the values, interpolated."""
    return float(np.percentile(np.asarray(values, dtype=np.float64), percent))
