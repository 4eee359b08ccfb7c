"""Curves of success against alignment steps or seconds of play, as pictures."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

from selfalign.errors import SelfAlignError
from selfalign.experiments.paired import Rate
from selfalign.experiments.summary import CellResult

LABELS: Final = {"steps": "alignment steps", "play": "seconds of play"}
_BLUE, _GREY = "#2f6fdf", "#8a8f98"


@final
class NoMatplotlib(SelfAlignError):
    """Pictures need matplotlib."""


def require_matplotlib() -> None:
    """Raise NoMatplotlib unless the extra `train` is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise NoMatplotlib('pictures need matplotlib: pip install "selfalign-server[train]"')


def points(result: CellResult, kind: str) -> list[tuple[float, Rate]]:
    """Success, not gated, at each number of the methods `<kind>_<number>`, in rising order."""
    found = [(re.fullmatch(rf"{kind}_([0-9.]+)", name), name) for name in result.settings.methods]
    return sorted(
        (float(match[1]), result.rate(name, served=False)) for match, name in found if match
    )


def draw_curves(results: Sequence[CellResult], kind: str, path: Path) -> None:
    """Write one panel a cell as PNG, with Wilson intervals and the success of the base W.

    Raises:
        NoMatplotlib: as `require_matplotlib`.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(results), 3.6), layout="constrained", facecolor="white")
    panels: Any = figure.subplots(1, len(results), squeeze=False)
    for axes, result in zip(panels[0], results, strict=True):
        _panel(axes, result, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _panel(axes: Any, result: CellResult, kind: str) -> None:
    curve = points(result, kind)
    numbers = [number for number, _ in curve]
    shares = [100 * rate.value for _, rate in curve]
    ends = [[100 * end for end in rate.interval] for _, rate in curve]
    low, high = [end[0] for end in ends], [end[1] for end in ends]
    axes.fill_between(numbers, low, high, color=_BLUE, alpha=0.15, linewidth=0)
    axes.plot(numbers, shares, marker="o", color=_BLUE, label="aligned, without gates")
    axes.axhline(100 * result.rate("base").value, color=_GREY, linestyle="--", label="base W")
    axes.set(title=result.cell.name, xlabel=LABELS[kind], ylabel="success [%]", ylim=(-2, 102))
    axes.legend(frameon=False)
