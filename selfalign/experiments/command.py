"""`selfalign evaluate`: options, progress, files. Light to import: the rest comes when it runs."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from selfalign.experiments.document import BadDocument, marks_of, write_between

if TYPE_CHECKING:
    from selfalign.experiments.plans import Section
    from selfalign.experiments.settings import Settings
    from selfalign.experiments.summary import CellResult

SCENARIOS: Final = ("camera", "action", "both", "robot", "all")
SEEDS: Final = "seeds"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `selfalign evaluate`."""
    add = parser.add_argument
    add(
        "--scenario",
        nargs="+",
        choices=SCENARIOS,
        default=["both"],
        help="what training has never seen: camera, action space, both, robot (UR5e), or all three "
        "at once (default both)",
    )
    add("--task", choices=("reach", "push", "lift"), default="reach")
    add(
        "--family",
        metavar="NAME",
        help="one action space family (tool_yawed, tool_rotated, joint_permuted ...), or for "
        "--scenario camera one placement (unseen, held_out, edge, outside)",
    )
    add("--episodes", type=count, default=100, help="start states of a cell (default 100)")
    add("--robots", type=count, default=20, help="robots they are spread over (default 20)")
    add("--seed", type=int, default=0, help="draws robots, play and start states (default 0)")
    add(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="robots for tables, or for choosing settings; validation also judges the gates",
    )
    add("--play-seconds", type=float, default=13.0, metavar="S", help="play (default 13)")
    add("--steps", type=count, default=25, help="alignment steps (default 25)")
    add("--execute", type=count, metavar="N", help="actions of a chunk to execute (default all)")
    add("--oracle", action="store_true", help="also W fitted with expert labels on each robot")
    add("--methods", metavar="A,B", help="what to compare instead, for example base,mean_w,demos_5")
    add(
        "--bc-model",
        metavar="DIR|ID",
        help="for method bc: a model trained without any W (selfalign pretrain --config bc)",
    )
    add("--curve", choices=("steps", "play"), help="success against alignment steps or play")
    add("--model", metavar="DIR|ID", help="a directory or Hub id (default: the one that ships)")
    add(
        "--models",
        nargs="+",
        metavar="DIR|ID",
        help="several, of different training seeds: mean, least and most of every cell",
    )
    add("--json", type=Path, metavar="FILE", help="write figures and robots there")
    add(
        "--document",
        type=Path,
        metavar="FILE",
        help="run all sections of docs/experiments.md and write their tables into this file",
    )
    add("--section", action="append", metavar="NAME", help="with --document: only that section")
    add(
        "--cache",
        type=Path,
        default=Path("runs/evaluate"),
        metavar="DIR",
        help="robots already run, so that an interrupted run goes on (default runs/evaluate)",
    )
    add("--jobs", type=count, default=1, help="processes, each with one thread (default 1)")


def run(arguments: argparse.Namespace) -> str:
    """Run what is asked for and return the tables.

    Raises:
        SelfAlignError: a name is unknown, a document has no marks, or the simulation is missing.
    """
    from selfalign.hub import resolve_model
    from selfalign.model.checkpoint import shipped_model_dir

    if arguments.models:
        return _run_seeds(arguments)
    model = resolve_model(arguments.model) if arguments.model else shipped_model_dir()
    sections = _sections(arguments)
    if arguments.document:
        _check_document(arguments.document, sections)
    shown, cells = [], []
    for section in sections:
        results = _results(section, model, arguments)
        from selfalign.experiments.plans import show

        text = show(section, results)
        shown.append(f"{section.title}\n\n{text}")
        cells += [{"section": section.name, **cell} for cell in _json(section, results)]
        if arguments.document:
            picture = _picture(section, results, arguments.document)
            body = f"{_how(section, model)}\n\n{text}{picture}"
            write_between(arguments.document, section.name, body)
        if arguments.json:
            _write_json(arguments.json, model, cells)
    return "\n\n".join(shown)


def _run_seeds(arguments: argparse.Namespace) -> str:
    """Every model on the same cells; with --document into its section `seeds`."""
    from selfalign.experiments.training_seeds import by_cell, check_models, seeds_json, seeds_table
    from selfalign.hub import resolve_model

    models = [resolve_model(name) for name in arguments.models]
    check_models(models)
    if arguments.document:
        marks_of(arguments.document, SEEDS)
    section = _command_section(arguments)
    found = by_cell([_results(section, model, arguments) for model in models])
    text = seeds_table(found)
    if arguments.document:
        write_between(arguments.document, SEEDS, f"{_how(section, *models)}\n\n{text}")
    if arguments.json:
        _dump(arguments.json, {"cells": seeds_json(found, models)})
    return f"{section.title}, {len(models)} models\n\n{text}"


def _command_section(arguments: argparse.Namespace) -> "Section":
    from selfalign.experiments.plans import section_of

    return section_of(
        list(dict.fromkeys(arguments.scenario)),
        task=arguments.task,
        family=arguments.family,
        settings=_settings(arguments),
    )


def _sections(arguments: argparse.Namespace) -> "list[Section]":
    from selfalign.experiments.plans import document_sections

    if not arguments.document:
        return [_command_section(arguments)]
    sections = document_sections(
        seed=arguments.seed,
        robots=arguments.robots,
        episodes=arguments.episodes,
        bc_model=_bc_model(arguments),
    )
    wanted = arguments.section or [section.name for section in sections]
    known = {section.name: section for section in sections}
    for name in wanted:
        if name not in known:
            raise BadDocument(f"no section is called {name!r}; known: {', '.join(known)}")
    return [known[name] for name in wanted]


def _settings(arguments: argparse.Namespace) -> "Settings":
    from selfalign.experiments.methods import check_methods
    from selfalign.experiments.plans import CURVES
    from selfalign.experiments.settings import Settings

    methods: Sequence[str] = ("base", "aligned", *(["oracle"] if arguments.oracle else []))
    if arguments.curve:
        methods = CURVES[arguments.curve]
    if arguments.methods:
        methods = arguments.methods.split(",")
    # Everything is compared with the base W.
    methods = tuple(dict.fromkeys(["base", *methods]))
    check_methods(methods, bc_model=_bc_model(arguments))
    return Settings(
        split=arguments.split,
        seed=arguments.seed,
        episodes=arguments.episodes,
        robots=min(arguments.robots, arguments.episodes),
        play_seconds=arguments.play_seconds,
        steps=arguments.steps,
        execute=arguments.execute,
        methods=methods,
        bc_model=_bc_model(arguments),
    )


def _bc_model(arguments: argparse.Namespace) -> Path | None:
    from selfalign.hub import resolve_model

    return resolve_model(arguments.bc_model) if arguments.bc_model else None


def _results(section: "Section", model: Path, arguments: argparse.Namespace) -> "list[CellResult]":
    from tqdm import tqdm

    from selfalign.experiments.evaluation import Task, evaluate
    from selfalign.experiments.records import RobotRecord
    from selfalign.experiments.summary import CellResult

    with tqdm(desc=section.name, unit="robot", mininterval=1) as bar:

        def begun(done: int, total: int) -> None:
            bar.reset(total)
            bar.update(done)

        def ended(task: Task, record: RobotRecord) -> None:
            counts = " ".join(f"{name} {sum(won)}" for name, won in record.success.items())
            bar.set_postfix_str(f"{task.cell.name}: {counts} of {len(record.starts)}"[:100])
            bar.update()

        found = evaluate(
            model, section.work, arguments.cache, jobs=arguments.jobs, begun=begun, ended=ended
        )
    return [
        CellResult(cell, section.settings, tuple(records))
        for cell, records in zip(section.cells, found, strict=True)
    ]


def _json(section: "Section", results: "Sequence[CellResult]") -> list[dict[str, Any]]:
    from selfalign.experiments import calibration
    from selfalign.experiments.summary import as_json

    cells = [as_json(result) for result in results]
    if section.kind == "calibration":
        for cell, result in zip(cells, results, strict=True):
            cell["gates"] = calibration.as_json(calibration.calibrate(result.records))
    return cells


def _write_json(path: Path, model: Path, cells: list[dict[str, Any]]) -> None:
    from selfalign.experiments.settings import model_sha256

    _dump(path, {"model_sha256": model_sha256(model), "cells": cells})


def _dump(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _how(section: "Section", *models: Path) -> str:
    from selfalign.experiments.settings import model_sha256

    settings = section.settings
    names = ", ".join(model_sha256(model)[:12] for model in models)
    return (
        f"Model{'s' if len(models) > 1 else ''} {names}; {settings.split} robots of seed "
        f"{settings.seed}: {settings.robots} a cell, {settings.episodes} start states a cell, "
        f"{settings.play_seconds:g} s of play, {settings.steps} steps."
    )


def _check_document(path: Path, sections: "list[Section]") -> None:
    """Raise at once what would be raised after hours."""
    from selfalign.experiments.curves import LABELS, require_matplotlib

    for section in sections:
        marks_of(path, section.name)
        if section.name in LABELS:
            require_matplotlib()


def _picture(section: "Section", results: "Sequence[CellResult]", document: Path) -> str:
    """Draw the curve of a section beside the document; what shows it, nothing for other tables."""
    from selfalign.experiments.curves import LABELS, draw_curves

    if section.name not in LABELS:
        return ""
    path = Path("images") / f"experiments_{section.name}.png"
    draw_curves(results, section.name, document.parent / path)
    return f"\n\n![Success against {LABELS[section.name]}]({path})"


def count(text: str) -> int:
    """An option that is a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value
