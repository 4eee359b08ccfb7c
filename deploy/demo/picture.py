"""The demonstration in one picture: losses, success, and one episode before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from deploy.demo.rollouts import Rollout
from deploy.demo.story import Story
from selfalign.experiments.paired import Comparison, Rate

_GREY, _BLUE, _GREEN, _RED = "#8a8f98", "#2f6fdf", "#1a9850", "#c0392b"
_LOSS_COLOURS: Final = {
    "inverse_dynamics": "#2f6fdf",
    "dynamics": "#e07b00",
    "perception": "#8e44ad",
    "total": "#333333",
}


def draw(stories: Sequence[Story], comparison: Comparison, *, title: str, path: Path) -> None:
    """Write the picture as PNG.

    The film strips show the first episode, in order, that failed before and succeeded after; the
    very first if there is none.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.2), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.0, 1.15])
    top, bottom = halves
    losses, success = top.subplots(1, 2, width_ratios=[1.6, 1.0])
    _losses(losses, stories)
    _success(success, comparison)
    story, index = chosen_episode(stories)
    _films(bottom, story, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def chosen_episode(stories: Sequence[Story]) -> tuple[Story, int]:
    """The first episode that alignment turned from failure to success, else the first of all."""
    for story in stories:
        for index, (before, after) in enumerate(zip(story.before, story.after, strict=True)):
            if after.is_success and not before.is_success:
                return story, index
    return stories[0], 0


def _losses(axes: Any, stories: Sequence[Story]) -> None:
    for story in stories:
        is_first = story is stories[0]
        for name in _LOSS_COLOURS:
            values = story.curve.losses.get(name, [])
            axes.plot(
                story.curve.steps[len(story.curve.steps) - len(values) :],
                values,
                color=_LOSS_COLOURS[name],
                alpha=1.0 if is_first else 0.35,
                linewidth=2.0 if is_first else 1.0,
                label=name.replace("_", " ") if is_first and values else None,
            )
    axes.set_yscale("log")
    axes.set_xlabel("alignment step")
    axes.set_title(f"Alignment losses on play ({_robots(len(stories))})", fontsize=11, loc="left")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, ncols=2)


def _success(axes: Any, comparison: Comparison) -> None:
    rates: list[Rate] = [comparison.before, comparison.after]
    values = np.array([rate.value for rate in rates])
    bounds = np.array([rate.interval for rate in rates])
    axes.bar(["base W", "aligned W"], 100 * values, color=[_GREY, _GREEN], width=0.55)
    errors = 100 * np.abs(bounds.T - values)
    axes.errorbar([0, 1], 100 * values, yerr=errors, fmt="none", ecolor="#222222", capsize=6)
    for x, (rate, bound) in enumerate(zip(rates, bounds, strict=True)):
        axes.text(x, 100 * bound[1] + 2, f"{rate.value:.0%}", ha="center", va="bottom", fontsize=12)
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("success [%]")
    axes.set_title(
        f"The same {comparison.before.episodes} start states, 95 % intervals",
        fontsize=11,
        loc="left",
    )
    axes.spines[["top", "right"]].set_visible(False)


def _films(figure: Any, story: Story, index: int) -> None:
    rollouts = {"base W": story.before[index], "aligned W": story.after[index]}
    columns = max(len(rollout.film) for rollout in rollouts.values())
    figure.suptitle(
        f'"{story.before[index].instruction}", episode {index + 1} of {story.embodiment.name}: '
        f"{story.embodiment.describe()}",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    grid = figure.subplots(2, columns, squeeze=False)
    for row, (name, rollout) in zip(grid, rollouts.items(), strict=True):
        _film(row, name, rollout)


def _film(row: Any, name: str, rollout: Rollout) -> None:
    for axes in row:
        axes.set_axis_off()
    steps = np.linspace(0, rollout.steps, len(rollout.film)).round().astype(int)
    for axes, frame, step in zip(row, rollout.film, steps, strict=False):
        axes.imshow(frame, interpolation="nearest")
        axes.set_title(f"step {step}", fontsize=8, color=_GREY, pad=2)
    outcome = "reached" if rollout.is_success else "not reached"
    row[0].text(
        -0.08,
        0.5,
        f"{name}\n{outcome}",
        transform=row[0].transAxes,
        ha="right",
        va="center",
        fontsize=10,
        color=_GREEN if rollout.is_success else _RED,
    )


def _robots(count: int) -> str:
    return "one robot" if count == 1 else f"{count} robots"
