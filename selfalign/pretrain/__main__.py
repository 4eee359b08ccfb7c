"""`accelerate launch -m selfalign.pretrain`: `selfalign pretrain` in one process of several.

On CPUs: `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 -m ...`.
"""

import argparse
import sys
from collections.abc import Sequence

from selfalign.errors import SelfAlignError
from selfalign.pretrain.command import add_run_options, add_start_options, chosen_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run one process of a training run. Returns the exit code: 0 done, 2 refused or failed."""
    parser = argparse.ArgumentParser(
        prog="accelerate launch -m selfalign.pretrain",
        description="Train a model (stage 1) by as many processes as the launcher starts.",
    )
    add_run_options(parser)
    add_start_options(parser)
    arguments = parser.parse_args(argv)
    try:
        _train(arguments)
    except (SelfAlignError, OSError) as error:
        sys.stderr.write(f"selfalign: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _train(arguments: argparse.Namespace) -> None:
    config = chosen_config(arguments)
    from selfalign.pretrain.processes import Processes
    from selfalign.pretrain.trainer import pretrain

    processes = Processes.launched()
    model = pretrain(config, arguments.directory, processes)
    if processes.is_first:
        sys.stdout.write(f"model written to {model}\n")
    processes.close()


if __name__ == "__main__":
    sys.exit(main())
