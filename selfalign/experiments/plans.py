"""What is run: cells and settings of a command line, and the sections of docs/experiments.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

from selfalign.experiments.calibration import calibrate
from selfalign.experiments.cells import SCENARIOS, Cell, Scenario, cells_of
from selfalign.experiments.settings import Settings
from selfalign.experiments.summary import CellResult
from selfalign.experiments.tables import calibration_tables, cells_table, methods_table

Kind = Literal["cells", "methods", "calibration"]

STEPS_CURVE: Final = (0, 5, 10, 25, 50, 100)
PLAY_CURVE: Final = (2, 5, 10, 13, 30)
CURVES: Final[dict[str, tuple[str, ...]]] = {
    "steps": ("base", *(f"steps_{n}" for n in STEPS_CURVE)),
    "play": ("base", *(f"play_{s}" for s in PLAY_CURVE)),
}
JUDGED: Final = (
    "base",
    "aligned",
    "wrong_robot",
    "shuffled_actions",
    "random_w",
    "early_stop",
    "steps_50",
    "steps_100",
)
BASELINES: Final = (
    "base",
    "aligned",
    "oracle",
    "mean_w",
    "nearest_w",
    "random_w",
    "wrong_robot",
    "shuffled_actions",
    "perception_only",
    "inverse_only",
    "dynamics_only",
    "no_perception",
    "no_inverse",
    "no_dynamics",
    "full_finetune",
    "lora",
    "gate_closed",
    "per_sample",
    "aligned_online",
    "analytic",
    "demos_1",
    "demos_5",
    "demos_10",
)


@final
@dataclass(frozen=True)
class Section:
    """Some cells run with the same settings, and how they are shown."""

    name: str
    title: str
    kind: Kind
    cells: tuple[Cell, ...]
    settings: Settings

    @property
    def work(self) -> list[tuple[Cell, Settings]]:
        """What `evaluate` takes."""
        return [(cell, self.settings) for cell in self.cells]


def section_of(
    scenarios: Sequence[Scenario], *, task: str, family: str | None, settings: Settings
) -> Section:
    """What a command line asks for.

    Raises:
        UnknownCell: no such family in one of the scenarios.
        UnknownTask: no such task.
    """
    cells = [cell for name in scenarios for cell in cells_of(name, task=task, family=family)]
    kind: Kind = "cells"
    if settings.split == "validation" and "aligned" in settings.methods:
        kind = "calibration"
    elif set(settings.methods) - {"base", "aligned", "oracle"}:
        kind = "methods"
    title = f"{', '.join(scenarios)}: {task}, {settings.split}, seed {settings.seed}"
    return Section("command", title, kind, tuple(cells), settings)


def document_sections(
    *, seed: int = 0, robots: int = 20, episodes: int = 100, bc_model: Path | None = None
) -> list[Section]:
    """Every table of docs/experiments.md; `bc_model` adds method bc to the baselines."""
    every = [cell for name in SCENARIOS for cell in cells_of(name)]
    others = [
        cell for task in ("push", "lift") for cell in cells_of("action", task=task, family=_FAMILY)
    ]
    both = cells_of("both")
    test = Settings(seed=seed, robots=robots, episodes=episodes)
    full = test.model_copy(update={"methods": ("base", "aligned", "oracle")})
    # Twice the starts, for the truth of a single robot.
    validation = test.model_copy(
        update={"split": "validation", "episodes": 2 * episodes, "methods": JUDGED}
    )
    judged = [*both, *cells_of("camera", family="unseen"), *cells_of("action", family=_ROTATED)]

    def curve(name: str) -> Settings:
        return test.model_copy(update={"methods": CURVES[name]})

    return [
        Section("cells", "Every cell, reach", "cells", tuple(every), full),
        Section("tasks", "Other tasks", "cells", tuple(others), full),
        Section("steps", "Success against alignment steps", "methods", tuple(both), curve("steps")),
        Section("play", "Success against seconds of play", "methods", tuple(both), curve("play")),
        Section(
            "baselines",
            "What alignment is compared with",
            "methods",
            tuple(both),
            test.model_copy(update={"methods": _baselines(bc_model), "bc_model": bc_model}),
        ),
        Section("gates", "Gates, on validation robots", "calibration", tuple(judged), validation),
    ]


def _baselines(bc_model: Path | None) -> tuple[str, ...]:
    return BASELINES if bc_model is None else (*BASELINES, "bc")


def show(section: Section, results: Sequence[CellResult]) -> str:
    """A section as Markdown."""
    if section.kind == "methods":
        parts = [f"`{result.cell.name}`\n\n{methods_table(result)}" for result in results]
        return "\n\n".join(parts)
    if section.kind == "cells":
        return cells_table(results)
    records = [record for result in results for record in result.records]
    parts = [cells_table(results), calibration_tables(calibrate(records))]
    if any(set(result.settings.methods) - {"base", "aligned", "oracle"} for result in results):
        parts += [f"`{result.cell.name}`\n\n{methods_table(result)}" for result in results]
    return "\n\n".join(parts)


_FAMILY: Final = "tool_yawed"
_ROTATED: Final = "tool_rotated"
