"""An ablation as pictures: a row of panels for each axis, the same as PDF and PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from selfalign.experiments.ablation import VariantResult
from selfalign.experiments.ablation_axes import Axis
from selfalign.experiments.curves import require_matplotlib

_COLOURS: Final = ("#8a8f98", "#2f6fdf", "#e07b39", "#2a9d6f", "#c0392b", "#7d5ab5", "#b59b2a")
_MARKERS: Final = "os^Dv<>"
_LINES: Final = ("-", "--", "-.", ":")
_BEFORE: Final = "#c9ccd2"
_ROW_INCHES: Final = (17.0, 3.9)

Row = tuple[Axis, Sequence[VariantResult]]


def draw_ablation(rows: Sequence[Row], paths: Sequence[Path]) -> None:
    """Write success, success against play, play needed and cost of all variants that were run.

    Raises:
        NoMatplotlib: it is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    rows = [row for row in rows if row[1]]
    if not rows:
        return
    width, height = _ROW_INCHES
    figure = Figure(figsize=(width, height * len(rows)), layout="constrained", facecolor="white")
    parts: Any = figure.subfigures(len(rows), 1, squeeze=False)
    for part, (axis, results) in zip(parts[:, 0], rows, strict=True):
        part.suptitle(axis.title, fontsize=12, fontweight="bold")
        panels = part.subplots(1, 4)
        for panel, draw in zip(panels, (_success, _curves, _speed, _cost), strict=True):
            draw(panel, results)
            panel.spines[["top", "right"]].set_visible(False)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)


def _success(panel: Any, results: Sequence[VariantResult]) -> None:
    """Before and after the most play, with Wilson intervals."""
    config = results[0].config
    kinds = ((0.0, _BEFORE, "zero-shot"), (config.play_seconds[-1], None, "few-shot"))
    for offset, (seconds, colour, _) in zip((-0.2, 0.2), kinds, strict=True):
        rates = [result.rate(seconds) for result in results]
        values = [100 * rate.value for rate in rates]
        errors = [
            [v - 100 * rate.interval[0] for v, rate in zip(values, rates, strict=True)],
            [100 * rate.interval[1] - v for v, rate in zip(values, rates, strict=True)],
        ]
        places = [number + offset for number in range(len(results))]
        panel.bar(
            places,
            values,
            width=0.38,
            color=colour or [_colour(number) for number in range(len(results))],
            yerr=[[max(0.0, e) for e in side] for side in errors],
            error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "#555555"},
        )
    panel.axhline(100 * config.target_success, color="#555555", linestyle=":", linewidth=1)
    panel.set_xticks(range(len(results)), [r.variant.title for r in results])
    panel.tick_params(axis="x", labelrotation=30, labelsize=8)
    for label in panel.get_xticklabels():
        label.set_horizontalalignment("right")
    few = f"{config.trajectories[-1]} x {config.trajectory_seconds:g} s of play"
    panel.set(title=f"Zero-shot (grey), few-shot ({few})", ylabel="success [%]", ylim=(0, 103))
    panel.title.set_fontsize(10)


def _curves(panel: Any, results: Sequence[VariantResult]) -> None:
    """Success against play; dotted: the success that is wanted."""
    seconds = [0.0, *results[0].config.play_seconds]
    for number, result in enumerate(results):
        values = [100 * result.rate(s).value for s in seconds]
        panel.plot(
            seconds,
            values,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linestyle=_LINES[number % len(_LINES)],
            color=_colour(number),
            label=result.variant.title,
        )
    panel.axhline(
        100 * results[0].config.target_success, color="#555555", linestyle=":", linewidth=1
    )
    panel.set(title="Success against play", xlabel="play [s]", ylabel="success [%]", ylim=(-3, 103))
    panel.title.set_fontsize(10)
    panel.legend(frameon=False, fontsize=7, loc="best")


def _speed(panel: Any, results: Sequence[VariantResult]) -> None:
    """Play that the wanted success takes."""
    config = results[0].config
    longest = config.play_seconds[-1]
    for number, result in enumerate(results):
        seconds = result.seconds_to_target
        if seconds is None:
            panel.text(0.02 * longest, number, f"not within {longest:g} s", va="center", fontsize=8)
            continue
        panel.barh(number, seconds, height=0.6, color=_colour(number))
        panel.text(seconds + 0.02 * longest, number, f"{seconds:g} s", va="center", fontsize=8)
    _name_rows(panel, results)
    panel.set(
        title=f"Play for {100 * config.target_success:.0f} % success",
        xlabel="play [s]",
        xlim=(0, 1.2 * longest),
    )
    panel.title.set_fontsize(10)


def _cost(panel: Any, results: Sequence[VariantResult]) -> None:
    """Seconds and memory of aligning; in words what training took."""
    seconds = [result.cost.cpu_s if result.cost else 0.0 for result in results]
    longest = max([*seconds, 1e-3])
    for number, (result, value) in enumerate(zip(results, seconds, strict=True)):
        panel.barh(number, value, height=0.6, color=_colour(number))
        panel.text(value + 0.02 * longest, number, _cost_words(result), va="center", fontsize=8)
    _name_rows(panel, results)
    panel.set(
        title="Cost of aligning", xlabel="processor seconds, one thread", xlim=(0, 2.1 * longest)
    )
    panel.title.set_fontsize(10)


def _cost_words(result: VariantResult) -> str:
    cost = result.cost
    nothing = "while it acts" if result.variant.adapts == "per_sample" else "no alignment"
    words = [nothing if cost is None else f"{cost.cpu_s:.1f} s"]
    if cost is not None and cost.peak_mb is not None:
        words.append(f"{cost.peak_mb:.0f} MB")
    if result.training is not None:
        train = result.training
        memory_gb = "" if train.peak_mb is None else f", {train.peak_mb / 1000:.1f} GB"
        words.append(f"\ntrained in {train.seconds / 60:.1f} min{memory_gb}")
    return ", ".join(words).replace(", \n", "\n")


def _name_rows(panel: Any, results: Sequence[VariantResult]) -> None:
    panel.set_yticks(range(len(results)), [r.variant.title for r in results], fontsize=8)
    panel.set_ylim(len(results) - 0.5, -0.5)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
