"""`selfalign pretrain` and `selfalign record`: their options, and what these say of a run.

Importing this is cheap: heavy imports are inside the functions.
"""

import argparse
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from selfalign.errors import ModelError

if TYPE_CHECKING:
    from selfalign.pretrain.config import PretrainConfig


def add_run_options(command: argparse.ArgumentParser) -> None:
    """Which configuration, and which directory."""
    command.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME",
        help=f"a TOML file, or one of those that ship: {', '.join(sorted(shipped()))}",
    )
    command.add_argument(
        "--run",
        dest="directory",
        type=Path,
        required=True,
        metavar="DIR",
        help="where everything goes; a run that was stopped goes on from what is there",
    )


def add_start_options(command: argparse.ArgumentParser) -> None:
    """What training starts from."""
    command.add_argument(
        "--init", metavar="DIR|ID", help="start from this model's weights, with its vision frozen"
    )
    command.add_argument(
        "--data", metavar="DIR|ID", help="a LeRobotDataset to train on instead of simulated play"
    )
    command.add_argument(
        "--spec", metavar="FILE", help="with --data: robot spec with limits and units (.yaml)"
    )


def shipped() -> dict[str, Path]:
    """The configurations in the package, by name."""
    folder = Path(str(files("selfalign.pretrain") / "configs"))
    return {path.stem: path for path in folder.glob("*.toml")}


def load_config(name: str, **start: object) -> "PretrainConfig":
    """The configuration of a file or of a name.

    Raises:
        ModelError: there is none, or one of its fields is wrong.
    """
    from selfalign.pretrain.config import PretrainConfig

    path = Path(name)
    if not path.suffix and not path.exists():
        if name not in shipped():
            known = ", ".join(sorted(shipped()))
            raise ModelError(f"no configuration is named {name!r}; give a file or one of: {known}")
        path = shipped()[name]
    return PretrainConfig.load(path, **start)


def chosen_config(arguments: argparse.Namespace) -> "PretrainConfig":
    """The configuration that the options of a run and of its start say. Raises SelfAlignError."""
    start = {name: getattr(arguments, name) for name in ("init", "data", "spec")}
    start = {name: value for name, value in start.items() if value is not None}
    if arguments.init:
        from selfalign.pretrain.start import model_config_of

        start["model"] = model_config_of(arguments.init)
    return load_config(arguments.config, **start)
