"""`selfalign`: train a model, record motion, look at a model or a robot spec.

The heavy imports are inside the commands, so that `--help` answers at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfalign.errors import SelfAlignError, StoreError
from selfalign.experiments.ablate_command import add_options as add_ablate_options
from selfalign.experiments.command import add_options as add_evaluate_options
from selfalign.hub import resolve_model
from selfalign.pretrain.command import (
    add_run_options,
    add_start_options,
    chosen_config,
    load_config,
)

if TYPE_CHECKING:
    from selfalign.data.spec import Dimension

_EPILOGUE = """examples:
  selfalign info
  selfalign spec my_robot.yaml
  selfalign pretrain --config tiny --run runs/tiny

The server is `python -m server`; what a controller and an operator need is `selfalign-client`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 2 refused or failed, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (SelfAlignError, OSError) as error:
        # Some messages quote a parser's, which may run over lines.
        print(f"selfalign: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from here" if arguments.run in _GO_ON else ""
        print(f"\nselfalign: interrupted{goes_on}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="selfalign",
        description="Train and inspect policies that align themselves to a robot.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _command(commands, "pretrain", _pretrain, "train a model (stage 1)")
    add_run_options(run)
    add_start_options(run)
    record = _command(commands, "record", _record, "only record the motion that stage 1 trains on")
    add_run_options(record)
    evaluate = _command(
        commands, "evaluate", _evaluate, "measure alignment on simulated robots never seen"
    )
    add_evaluate_options(evaluate)
    ablate = _command(commands, "ablate", _ablate, "train and measure variants of the recipe")
    add_ablate_options(ablate)
    info = _command(commands, "info", _info, "what a model is: parts, sizes, identity")
    info.add_argument(
        "--model", metavar="DIR|ID", help="a directory or Hub id (default: the model that ships)"
    )
    _add_convert(_command(commands, "convert", _convert, "read a checkpoint of openpi or LeRobot"))
    _add_attach(_command(commands, "attach", _attach, "give a converted policy TTT and alignment"))
    export = _command(commands, "export", _export, "write recorded play as a LeRobotDataset")
    export.add_argument(
        "--play", type=Path, required=True, metavar="DIR", help="the play store of a server"
    )
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="new, or empty")
    export.add_argument(
        "--episode",
        action="append",
        default=[],
        metavar="ID",
        help="may be repeated (default: all)",
    )
    export.add_argument("--robot", metavar="NAME", help="only episodes of this robot")
    spec = _command(commands, "spec", _spec, "check a robot spec and show what it declares")
    spec.add_argument("file", type=Path, help="a .yaml or .toml file")
    spec.add_argument("--yaml", action="store_true", help="print it as canonical YAML instead")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=run)
    return command


def _add_directories(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--from", dest="source", required=True, metavar="DIR|ID", help="a directory or Hub id"
    )
    command.add_argument(
        "--to", dest="target", type=Path, required=True, metavar="DIR", help="new, or empty"
    )


def _add_convert(command: argparse.ArgumentParser) -> None:
    _add_directories(command)
    command.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="precision of the weights (default: each as it is in the source)",
    )
    command.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="tokenizer.json or tokenizer.model"
    )
    command.add_argument(
        "--horizon", type=int, metavar="N", help="actions in a chunk, if the source does not say"
    )
    command.add_argument(
        "--trained-delay",
        type=int,
        metavar="N",
        help="longest frozen start that the policy was trained for, for real-time chunking",
    )
    command.add_argument(
        "--asset", metavar="ID", help="which normalisation of openpi's assets, or none"
    )
    command.add_argument(
        "--cameras",
        metavar="A,B",
        help="what the robot calls the cameras, in the order of training (default: as the source)",
    )


def _add_attach(command: argparse.ArgumentParser) -> None:
    _add_directories(command)
    command.add_argument(
        "--alignment-depth", type=int, default=4, metavar="N", help="layers (default: 4)"
    )
    command.add_argument(
        "--ttt-layers",
        type=_layers,
        default="all",
        metavar="LIST",
        help="layers of the action expert that carry W, as 0,5,17 (default: all)",
    )
    command.add_argument(
        "--stride", type=int, default=1, metavar="N", help="control steps of a transition"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N")


def _layers(text: str) -> str | tuple[int, ...]:
    """`all`, or layer numbers with commas between them."""
    return text if text == "all" else tuple(int(part) for part in text.split(","))


def _pretrain(arguments: argparse.Namespace) -> None:
    config = chosen_config(arguments)
    from selfalign.pretrain.trainer import pretrain

    print(f"model written to {pretrain(config, arguments.directory)}")


def _record(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config)
    from selfalign.data.recording import Recording
    from selfalign.pretrain.record import record_missing

    record_missing(config.record, arguments.directory)
    recording = Recording(arguments.directory / "recording")
    print(
        f"{recording.directory}: {len(recording)} frames in {len(recording.episodes)} episodes, "
        f"{config.record.frames} single frames"
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    from selfalign.experiments.command import run

    print(run(arguments))


def _ablate(arguments: argparse.Namespace) -> None:
    from selfalign.experiments.ablate_command import run

    print(run(arguments, load_config))


# What keeps its progress on disk.
_GO_ON = frozenset({_pretrain, _record, _evaluate, _ablate})


def _info(arguments: argparse.Namespace) -> None:
    from selfalign.model.checkpoint import load_policy, shipped_model_dir

    directory = resolve_model(arguments.model) if arguments.model else shipped_model_dir()
    policy = load_policy(directory)
    config, w, counts = policy.config, policy.base_w(), policy.num_parameters()
    numbers = w.W1.numel() + w.b1.numel()
    print(f"model          {config.variant} ({config.flavour}) in {directory}")
    print(f"base sha256    {policy.base_sha256}")
    side = config.vision.image_size
    print(f"cameras        up to {config.max_cameras} of {side} x {side} pixels")
    if config.cameras:
        print(f"               in this order: {', '.join(config.cameras)}")
    print(f"state, action  up to {config.state_dim} and {config.action_dim} numbers")
    print(f"chunk          {config.horizon} actions in {config.flow_steps} flow steps")
    print(f"transition     {config.stride} control steps")
    print(f"W              {numbers} numbers ({4 * numbers / 1024:.1f} KiB) in layers {w.layers}")
    print("parameters")
    for part, count in (*counts.items(), ("total", sum(counts.values()))):
        print(f"  {part:<12} {count:>13,}")


def _convert(arguments: argparse.Namespace) -> None:
    from selfalign.model.convert import convert

    done = convert(
        resolve_model(arguments.source),
        arguments.target,
        dtype=arguments.dtype,
        tokenizer=arguments.tokenizer,
        horizon=arguments.horizon,
        trained_delay=arguments.trained_delay,
        asset=arguments.asset,
        cameras=tuple(arguments.cameras.split(",")) if arguments.cameras else None,
    )
    config = done.config
    print(f"{config.variant} ({config.flavour}) from {done.kind}: {done.numbers:,} numbers")
    print(f"chunk of {config.horizon} actions, prompts of {config.max_prompt_tokens} tokens")
    for note in done.notes:
        print(f"  {note}")
    print(f"written to {arguments.target}")
    if not config.attached:
        print(f"next: selfalign attach --from {arguments.target} --to DIR")


def _attach(arguments: argparse.Namespace) -> None:
    from selfalign.model.attach import attach

    done = attach(
        resolve_model(arguments.source),
        arguments.target,
        alignment_depth=arguments.alignment_depth,
        ttt_layers=arguments.ttt_layers,
        stride=arguments.stride,
        seed=arguments.seed,
    )
    for part, count in done.added.items():
        print(f"added {part}: {count:,} numbers")
    print(f"the alignment expert starts from layers {done.copied_layers} of the action expert")
    print(f"written to {arguments.target}; it acts as before until stage 1 opens the gates")


def _export(arguments: argparse.Namespace) -> None:
    from selfalign.data.lerobot_export import export_play
    from selfalign.data.play_reader import PlayReader

    if not arguments.play.is_dir():
        raise StoreError(
            f"{arguments.play} is no directory; give the play store of a server, DATA_DIR/play"
        )
    done = export_play(
        PlayReader(arguments.play), arguments.to, ids=arguments.episode, robot=arguments.robot
    )
    print(f"{done.frames} steps in {done.episodes} episodes written to {arguments.to}")
    if done.left_out:
        print(f"{done.left_out} steps that stand alone between gaps in time were left out")


def _spec(arguments: argparse.Namespace) -> None:
    from selfalign.data.spec import RobotSpec

    spec = RobotSpec.from_file(arguments.file)
    if arguments.yaml:
        print(spec.to_yaml(), end="")
        return
    print(f"robot    {spec.name}, {spec.rate_hz:g} Hz")
    print(f"digest   {spec.digest}")
    for camera in spec.cameras:
        print(f"camera   {camera.name}: {camera.height} x {camera.width} pixels (rows x columns)")
    _print_dimensions("state", spec.state)
    _print_dimensions("action", spec.action)
    if spec.targets:
        print(f"targets  {', '.join(spec.targets)}: seen by their change since the last command")
    if spec.default_instruction:
        print(f"default instruction: {spec.default_instruction}")


def _print_dimensions(what: str, dimensions: "Sequence[Dimension]") -> None:
    print(f"{what}    {len(dimensions)} numbers")
    for dimension in dimensions:
        limits = f"{dimension.low:g} to {dimension.high:g}"
        print(f"  {dimension.name:<20} {limits} {dimension.unit}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
