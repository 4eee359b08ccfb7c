"""`python -m deploy.demo`: a robot never seen, before and after a few seconds of play."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

import numpy as np

from client import ClientError
from deploy.demo.arguments import count
from deploy.demo.embodiments import FAMILIES, SCENARIOS, Embodiment, draw_embodiment
from deploy.demo.report import Outcome, figures, one_line, report, successes, title
from deploy.demo.server_process import ServerNotStarted, ServerProcess
from deploy.demo.story import AlignmentFailed, Plan, Story, tell
from selfalign.experiments.paired import compare
from server.wire.operator import DEFAULT_STEPS


class DemoFailed(Exception):
    """A call to the server failed; the message ends with what the server logged."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration. Returns 0 if it ran, whatever the success; 1 if it could not."""
    arguments = _parser().parse_args(argv)
    # With --json, standard output carries the last line alone.
    out = sys.stderr if arguments.json else sys.stdout
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        outcome = _run(arguments, out)
    except (DemoFailed, ServerNotStarted, AlignmentFailed) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted, the server has been stopped", file=sys.stderr)
        return 130
    print(f"\n{report(outcome)}", file=out)
    _draw(outcome, arguments.output, out)
    print(json.dumps(figures(outcome)))
    return 0


def _run(arguments: argparse.Namespace, out: TextIO) -> Outcome:
    begun_s = time.monotonic()
    plan = Plan(
        execute=arguments.execute,
        play_steps=arguments.play_steps,
        align_steps=arguments.align_steps,
        is_quiet=not sys.stderr.isatty(),
    )
    starts = _starts(arguments.episodes, arguments.embodiments, arguments.seed)
    stories = []
    with ServerProcess(model=arguments.model, arguments=("--log-level", "warning")) as server:
        print("\n".join(server.greeting), file=out, flush=True)
        for index, own_starts in enumerate(starts):
            embodiment = draw_embodiment(
                arguments.scenario, seed=arguments.seed, index=index, family=arguments.family
            )
            print(f"\nrobot {embodiment.name}: {embodiment.describe()}", file=out, flush=True)
            story = _tell(server, embodiment, own_starts, plan)
            stories.append(story)
            print(one_line(story), file=out, flush=True)
    comparison = compare(successes(stories))
    return Outcome(
        tuple(stories),
        comparison,
        scenario=arguments.scenario,
        family=arguments.family,
        seed=arguments.seed,
        seconds=time.monotonic() - begun_s,
    )


def _tell(
    server: ServerProcess, embodiment: Embodiment, starts: Sequence[int], plan: Plan
) -> Story:
    try:
        return tell(server.url, embodiment, starts, plan)
    except ClientError as error:
        raise DemoFailed(f"{error}{server.log_tail}") from error


def _starts(episodes: int, embodiments: int, seed: int) -> list[list[int]]:
    """Numbers of the start states of each embodiment, all different."""
    drawn = np.random.default_rng([seed, episodes]).choice(2**31, size=episodes, replace=False)
    return [part.tolist() for part in np.array_split(drawn, embodiments)]


def _draw(outcome: Outcome, path: Path, out: TextIO) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no picture: it needs matplotlib (the extra `train`)", file=out)
        return
    from deploy.demo.picture import draw

    draw(outcome.stories, outcome.comparison, title=title(outcome), path=path)
    print(f"picture: {path}\n", file=out, flush=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo",
        description="Start a server and a simulated robot that its model has never seen; measure "
        "success, play, align, swap, and measure again on the same start states.",
    )
    add = parser.add_argument
    add("--scenario", choices=SCENARIOS, default="both", help="what is unseen (default both)")
    add(
        "--family",
        choices=FAMILIES,
        default="tool_yawed",
        help="what an unseen action space is drawn from (default tool_yawed: a tool frame turned "
        "about the vertical, maybe mirrored; tool_rotated: turned in any way)",
    )
    add("--episodes", type=count, default=50, help="start states in all (default 50)")
    add(
        "--embodiments",
        type=count,
        default=5,
        help="unseen robots to spread them over (default 5)",
    )
    add("--execute", type=count, help="steps of a chunk to execute before the next (default all)")
    add("--play-steps", type=count, default=130, help="steps of play a robot (default 130: 13 s)")
    add("--align-steps", type=count, default=DEFAULT_STEPS, help="steps of alignment (default 25)")
    add("--seed", type=int, default=0, help="draws robots, start states and play (default 0)")
    add("--model", metavar="DIR|ID", help="model to serve, directory or Hub id (default: shipped)")
    add(
        "--output",
        type=Path,
        default=Path("demo-output/demo.png"),
        metavar="FILE",
        help="the picture (default demo-output/demo.png)",
    )
    add("--json", action="store_true", help="print nothing but the last line to standard output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
