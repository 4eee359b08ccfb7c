"""`selfalign ablate`: options, progress, files. Light to import: the rest comes when it runs."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from selfalign.experiments.command import SCENARIOS, count
from selfalign.experiments.document import marks_of, write_between

if TYPE_CHECKING:
    from selfalign.experiments.ablation import AblationConfig, Outcome
    from selfalign.experiments.ablation_axes import Variant
    from selfalign.experiments.ablation_table import Row
    from selfalign.experiments.ablation_train import Training
    from selfalign.experiments.cells import Cell
    from selfalign.pretrain.config import PretrainConfig

AXIS_NAMES: Final = (
    "losses",
    "depth",
    "ttt",
    "inner_step",
    "w",
    "embodiments",
    "stride",
    "lifetime",
)
START_NAMES: Final = ("prefix", "model", "nothing")
# Play of fewer than 32 transitions is refused by the server.
_SHORTEST_PLAY_S: Final = 3.5
ABLATION: Final = "ablation"
STAGE_2: Final = "ablation_stage2"
RESULTS: Final = "ablation_results.json"
PLOTS: Final = ("ablation_plots.pdf", "ablation_plots.png")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `selfalign ablate`."""
    add = parser.add_argument
    add("--list", action="store_true", help="show all axes and variants, and run nothing")
    add("--axis", nargs="+", choices=AXIS_NAMES, default=["losses"], help="(default losses)")
    add("--variants", metavar="A,B", help="only these variants, of whatever axis")
    add(
        "--stage2-only",
        action="store_true",
        help="train nothing: switch losses off at stage 2 alone, on a model that is trained",
    )
    _add_training(parser.add_argument_group("training"))
    _add_measure(parser.add_argument_group("measuring"))
    add(
        "--out",
        type=Path,
        default=Path("runs/ablate"),
        metavar="DIR",
        help=f"for {RESULTS}, {' and '.join(PLOTS)}, and for runs: a stopped one goes on "
        "(default runs/ablate)",
    )
    add(
        "--document",
        type=Path,
        metavar="FILE",
        help="write tables and picture into this file too, as docs/experiments.md has sections "
        f"for: {ABLATION}, and {STAGE_2} with --stage2-only",
    )


def _add_training(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--config", default="ablation", metavar="FILE|NAME", help="(default ablation)")
    add("--iterations", type=count, metavar="N", help="of the inner loop, instead of the config's")
    add(
        "--start",
        choices=START_NAMES,
        default="prefix",
        help="where every variant starts: the prefix of --model with all else fresh, all weights "
        "of --model that fit, or nothing (default prefix)",
    )
    add(
        "--model",
        metavar="DIR|ID",
        help="the model to start from, or, with --stage2-only, to "
        "measure (default: the one that ships)",
    )
    add(
        "--shared",
        type=Path,
        metavar="DIR",
        help="a run directory whose recording and prefix cache to use (default: made in --out)",
    )


def _add_measure(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--scenario", nargs="+", choices=SCENARIOS, default=["both"], help="(default both)")
    add("--task", choices=("reach", "push", "lift"), default="reach")
    add("--family", metavar="NAME", help="as of selfalign evaluate")
    add("--episodes", type=count, default=100, help="start states of a cell (default 100)")
    add("--robots", type=count, default=20, help="robots they are spread over (default 20)")
    add("--seed", type=int, default=0, help="draws robots, play and start states (default 0)")
    add("--split", choices=("test", "validation"), default="test")
    add("--steps", type=count, default=25, help="alignment steps (default 25)")
    add(
        "--play-trajectories",
        type=_counts,
        default=(1, 2, 3),
        metavar="N,N",
        help="trajectories of play for few-shot success (default 1,2,3)",
    )
    add(
        "--trajectory-seconds",
        type=_seconds,
        default=5.0,
        metavar="S",
        help="play of one trajectory, at least 3.5 (default 5)",
    )
    add(
        "--target-success",
        type=_share,
        default=0.9,
        metavar="X",
        help="for adaptation speed: play until this success, as a share of 1 (default 0.9)",
    )
    add("--jobs", type=count, default=1, help="processes that measure (default 1)")


def run(arguments: argparse.Namespace, load: "Callable[[str], PretrainConfig]") -> str:
    """Run what is asked for and return the tables.

    Args:
        arguments: Of the command line.
        load: Reads a training configuration by file or name.

    Raises:
        SelfAlignError: a name is unknown, or a variant that was named cannot be run.
    """
    from selfalign.experiments.ablation_axes import AXES, describe
    from selfalign.experiments.ablation_plots import draw_ablation
    from selfalign.experiments.ablation_table import ablation_json, ablation_table, results_of
    from selfalign.experiments.curves import require_matplotlib

    if arguments.list:
        return describe()
    require_matplotlib()
    if arguments.document:
        marks_of(arguments.document, _section(arguments), "ablate")
    training = None if arguments.stage2_only else _training(arguments, load)
    rows: list[Row] = []
    for axis, variants in _chosen(arguments):
        rows.append((AXES[axis], _outcomes(axis, variants, arguments, training)))
        arguments.out.mkdir(parents=True, exist_ok=True)
        found = {"command": _settings_json(arguments), "axes": ablation_json(rows)}
        text = json.dumps(found, indent=1, allow_nan=False)
        (arguments.out / RESULTS).write_text(f"{text}\n", encoding="utf-8")
        plots = [arguments.out / name for name in PLOTS]
        draw_ablation([(axis, results_of(outcomes)) for axis, outcomes in rows], plots)
    text = "\n\n".join(ablation_table(*row) for row in rows)
    if arguments.document:
        _write_document(arguments, text)
    files = ", ".join(str(arguments.out / name) for name in (RESULTS, *PLOTS))
    return f"{text}\n\nwritten: {files}"


def _section(arguments: argparse.Namespace) -> str:
    return STAGE_2 if arguments.stage2_only else ABLATION


def _write_document(arguments: argparse.Namespace, text: str) -> None:
    """Tables, how they came about, and the picture beside the document."""
    name = _section(arguments)
    picture = Path("images") / f"experiments_{name}.png"
    target = arguments.document.parent / picture
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(arguments.out / PLOTS[1], target)
    body = f"{_how(arguments)}\n\n{text}\n\n![Ablation]({picture})"
    write_between(arguments.document, name, body, "ablate")


def _how(arguments: argparse.Namespace) -> str:
    from selfalign.experiments.settings import model_sha256

    measure, model = _measure(arguments), model_sha256(_model(arguments))[:12]
    settings = measure.settings
    how = f"Nothing trained: model {model}"
    if not arguments.stage2_only:
        steps = f"{arguments.iterations} iterations of " if arguments.iterations else ""
        start = "nothing" if arguments.start == "nothing" else f"the {arguments.start} of {model}"
        how = f"Each variant is {steps}configuration `{arguments.config}`, from {start}"
    return (
        f"{how}; {settings.split} robots of seed {settings.seed}: {settings.robots} a cell, "
        f"{settings.episodes} start states, {settings.steps} steps; "
        f"cells: {', '.join(cell.name for cell in _cells(arguments))}."
    )


def _chosen(arguments: argparse.Namespace) -> "list[tuple[str, tuple[Variant, ...]]]":
    """Axes and variants; every name of --variants has to be on one of the axes."""
    from selfalign.experiments.ablation_axes import UnknownVariant, chosen

    axes = list(dict.fromkeys(arguments.axis))
    if not arguments.variants:
        return [(axis, chosen(axis)) for axis in axes]
    names = arguments.variants.split(",")
    known = {variant.name for axis in axes for variant in chosen(axis)}
    for name in names:
        if name not in known:
            raise UnknownVariant(
                f"no variant of {', '.join(axes)} is called {name!r}; known: "
                f"{', '.join(sorted(known))}"
            )
    return [(axis, tuple(each for each in chosen(axis) if each.name in names)) for axis in axes]


def _outcomes(
    axis: str,
    variants: "Sequence[Variant]",
    arguments: argparse.Namespace,
    training: "tuple[Training, PretrainConfig] | None",
) -> "list[tuple[Variant, Outcome]]":
    """Every variant run; one that cannot be is an error only if it was asked for by name."""
    from selfalign.experiments.ablation_axes import UnavailableVariant

    found: list[tuple[Variant, Outcome]] = []
    for number, variant in enumerate(variants):
        label = f"{axis} {number + 1}/{len(variants)} {variant.name}"
        try:
            found.append((variant, _one(variant, label, arguments, training)))
        except UnavailableVariant as error:
            if arguments.variants:
                raise
            found.append((variant, error))
    return found


def _one(
    variant: "Variant",
    label: str,
    arguments: argparse.Namespace,
    training: "tuple[Training, PretrainConfig] | None",
) -> "Outcome":
    from tqdm import tqdm

    from selfalign.experiments.ablation import Place, run_variant
    from selfalign.experiments.evaluation import Task
    from selfalign.experiments.records import RobotRecord

    tqdm.write(label, file=sys.stderr)
    with tqdm(desc=label, unit="robot", mininterval=1, leave=False) as bar:

        def begun(done: int, total: int) -> None:
            bar.reset(total)
            bar.update(done)

        def ended(task: Task, record: RobotRecord) -> None:
            del task, record
            bar.update()

        return run_variant(
            variant,
            _measure(arguments),
            _cells(arguments),
            Place(_model(arguments), arguments.out / "cache", training, arguments.jobs),
            begun=begun,
            ended=ended,
        )


def _model(arguments: argparse.Namespace) -> Path:
    from selfalign.hub import resolve_model
    from selfalign.model.checkpoint import shipped_model_dir

    return resolve_model(arguments.model) if arguments.model else shipped_model_dir()


def _training(
    arguments: argparse.Namespace, load: "Callable[[str], PretrainConfig]"
) -> "tuple[Training, PretrainConfig]":
    from selfalign.experiments.ablation_train import Training

    config = load(arguments.config)
    if arguments.iterations:
        stage1 = config.stage1.model_copy(update={"iterations": arguments.iterations})
        config = config.model_copy(update={"stage1": stage1})
    where = Training(arguments.out, arguments.start, _model(arguments), arguments.shared)
    return where, config


def _cells(arguments: argparse.Namespace) -> "list[Cell]":
    from selfalign.experiments.cells import cells_of

    scenarios = dict.fromkeys(arguments.scenario)
    return [
        cell
        for name in scenarios
        for cell in cells_of(name, task=arguments.task, family=arguments.family)
    ]


def _measure(arguments: argparse.Namespace) -> "AblationConfig":
    from selfalign.experiments.ablation import AblationConfig
    from selfalign.experiments.settings import Settings

    settings = Settings(
        split=arguments.split,
        seed=arguments.seed,
        episodes=arguments.episodes,
        robots=min(arguments.robots, arguments.episodes),
        steps=arguments.steps,
    )
    return AblationConfig(
        settings=settings,
        trajectories=arguments.play_trajectories,
        trajectory_seconds=arguments.trajectory_seconds,
        target_success=arguments.target_success,
    )


def _settings_json(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that figures depend on."""
    left_out = {"run", "list", "out", "jobs", "shared", "document"}
    options = {key: value for key, value in vars(arguments).items() if key not in left_out}
    return {key: value for key, value in options.items() if not callable(value)}


def _counts(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({count(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers as 1,2,3, got {text}") from None
    return found


def _seconds(text: str) -> float:
    value = float(text)
    if value < _SHORTEST_PLAY_S:
        raise argparse.ArgumentTypeError(f"expected at least {_SHORTEST_PLAY_S}, got {text}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most 1, got {text}")
    return value
