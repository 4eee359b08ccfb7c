"""The same cells with several training seeds: mean, least and most of every figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from selfalign.errors import SelfAlignError
from selfalign.experiments.cells import Cell
from selfalign.experiments.settings import model_sha256
from selfalign.experiments.summary import CellResult, as_json
from selfalign.experiments.tables import p_text, table


@final
class SameModel(SelfAlignError):
    """Two of the models are the same one."""


@final
@dataclass(frozen=True)
class Spread:
    """One figure over training seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return sum(self.values) / len(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{100 * self.mean:.0f} % ({100 * low:.0f}-{100 * high:.0f})"


@final
@dataclass(frozen=True)
class SeedsResult:
    """One cell, run with every model on the same robots and starts."""

    results: tuple[CellResult, ...]

    @property
    def cell(self) -> Cell:
        """The cell."""
        return self.results[0].cell

    def spread(self, method: str, *, served: bool = True) -> Spread:
        """Success of a method over models."""
        return Spread(tuple(each.rate(method, served=served).value for each in self.results))

    @property
    def gap_closed(self) -> Spread | None:
        """Gap closed over models; None unless all have an oracle that is better than base."""
        found = [each.gap_closed for each in self.results]
        known = tuple(value for value in found if value is not None)
        return Spread(known) if len(known) == len(found) else None


def by_cell(runs: Sequence[Sequence[CellResult]]) -> list[SeedsResult]:
    """From the cells of each model to the models of each cell."""
    return [SeedsResult(tuple(results)) for results in zip(*runs, strict=True)]


def check_models(models: Sequence[Path]) -> None:
    """Raise SameModel if one stands there twice: its spread would look smaller than it is."""
    seen: dict[str, Path] = {}
    for model in models:
        identity = model_sha256(model)
        if identity in seen:
            raise SameModel(
                f"{model} is the model of {seen[identity]}; give models of different training seeds"
            )
        seen[identity] = model


def seeds_table(found: Sequence[SeedsResult]) -> str:
    """One row a cell: the mean over models, least and most in brackets; the largest p value."""
    methods = found[0].results[0].settings.methods
    head = ["cell", *methods, "gap closed", "largest p", "robots worse"]
    return table(head, [_row(each, methods) for each in found])


def seeds_json(found: Sequence[SeedsResult], models: Sequence[Path]) -> list[dict[str, Any]]:
    """Every cell as plain values, with that of each model below."""
    return [
        {
            "cell": each.cell.name,
            "methods": {
                name: _spread_json(each, name) for name in each.results[0].settings.methods
            },
            "gap_closed": None if each.gap_closed is None else _values(each.gap_closed),
            "models": [
                {"model_sha256": model_sha256(model), **as_json(result)}
                for model, result in zip(models, each.results, strict=True)
            ],
        }
        for each in found
    ]


def _row(found: SeedsResult, methods: Sequence[str]) -> list[str]:
    gap = found.gap_closed
    row = [found.cell.name, *(str(found.spread(name)) for name in methods)]
    row.append(
        "-" if gap is None else f"{gap.mean:.2f} ({min(gap.values):.2f}-{max(gap.values):.2f})"
    )
    if "aligned" not in methods:
        return [*row, "", ""]
    worst = max(each.against_base("aligned").p_value for each in found.results)
    worse = sum(each.robots_worse for each in found.results)
    return [*row, p_text(worst), f"{worse} of {sum(len(each.records) for each in found.results)}"]


def _spread_json(found: SeedsResult, name: str) -> dict[str, Any]:
    return {**_values(found.spread(name)), "ungated": _values(found.spread(name, served=False))}


def _values(spread: Spread) -> dict[str, Any]:
    values = [round(value, 4) for value in spread.values]
    return {
        "mean": round(spread.mean, 4),
        "min": min(values),
        "max": max(values),
        "values": values,
    }
