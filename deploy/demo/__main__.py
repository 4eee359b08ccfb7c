"""`python -m deploy.demo`: a robot never seen, before and after a few seconds of play."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, final

import numpy as np

from client import ClientError
from client.tables import duration, size, table
from deploy.demo.embodiments import SCENARIOS, Embodiment, draw_embodiment
from deploy.demo.paired import Comparison, compare
from deploy.demo.server_process import ServerNotStarted, ServerProcess
from deploy.demo.story import AlignmentFailed, Plan, Story, tell


class DemoFailed(Exception):
    """A call to the server failed; the message ends with what the server logged."""


@final
@dataclass(frozen=True)
class Outcome:
    """Everything that was found out."""

    stories: tuple[Story, ...]
    comparison: Comparison
    seconds: float


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
    _report(outcome, arguments, out)
    print(json.dumps(_figures(outcome, arguments)))
    return 0


def _run(arguments: argparse.Namespace, out: TextIO) -> Outcome:
    begun_s = time.monotonic()
    plan = Plan(
        execute=arguments.execute,
        play_steps=arguments.play_steps,
        align_steps=arguments.align_steps,
        seed=arguments.seed,
        is_quiet=not sys.stderr.isatty(),
    )
    starts = _starts(arguments.episodes, arguments.embodiments, arguments.seed)
    stories = []
    with ServerProcess(model_dir=arguments.model, arguments=("--log-level", "warning")) as server:
        print("\n".join(server.greeting), file=out, flush=True)
        for index, own_starts in enumerate(starts):
            embodiment = draw_embodiment(arguments.scenario, seed=arguments.seed, index=index)
            print(f"\nrobot {embodiment.name}: {embodiment.describe()}", file=out, flush=True)
            story = _tell(server, embodiment, own_starts, plan)
            stories.append(story)
            print(_line(story), file=out, flush=True)
    comparison = compare(
        [
            ([item.is_success for item in story.before], [item.is_success for item in story.after])
            for story in stories
        ]
    )
    return Outcome(tuple(stories), comparison, time.monotonic() - begun_s)


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


def _line(story: Story) -> str:
    before = sum(item.is_success for item in story.before)
    after = sum(item.is_success for item in story.after)
    return (
        f"  success {before}/{len(story.before)} -> {after}/{len(story.after)} after "
        f"{story.play_s:.0f} s of play and {story.align_s:.1f} s of alignment "
        f"(held-out loss {_held_out(story)})"
    )


def _held_out(story: Story) -> str:
    held_out = story.session.held_out
    if held_out is None or held_out.before is None or held_out.after is None:
        return "not measured"
    return f"{held_out.before:.3g} -> {held_out.after:.3g}"


def _report(outcome: Outcome, arguments: argparse.Namespace, out: TextIO) -> None:
    comparison, stories = outcome.comparison, outcome.stories
    rows = [
        [name, f"{rate.successes} of {rate.episodes}", str(rate)]
        for name, rate in (
            ("base W", comparison.before),
            ("aligned W", comparison.after),
        )
    ]
    print(f"\n{_title(arguments)}\n", file=out)
    print(table(["reach", "episodes", "success (95 % interval)"], rows), file=out)
    low, high = comparison.gain_interval()
    gain = comparison.after.value - comparison.before.value
    snapshot = stories[-1].snapshot
    print(
        f"\ngain {100 * gain:+.0f} points ({100 * low:+.0f} to {100 * high:+.0f}); "
        f"{comparison.improved} episodes better, {comparison.worsened} worse, the same start "
        f"states (p = {comparison.p_value:.2g})\n"
        f"play {stories[-1].play_s:.1f} s a robot ({arguments.play_steps} steps), "
        f"alignment {_mean_align_s(stories):.1f} s a robot ({arguments.align_steps} steps, "
        "from request to swap)\n"
        f"snapshot: version {snapshot.version}, {size(snapshot.nbytes)}, {snapshot.sha256[:12]}\n"
        f"all in {duration(outcome.seconds)}",
        file=out,
    )
    _picture(outcome, arguments, out)


def _picture(outcome: Outcome, arguments: argparse.Namespace, out: TextIO) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no picture: it needs matplotlib (the extra `train`)", file=out)
        return
    from deploy.demo.picture import draw

    draw(outcome.stories, outcome.comparison, title=_title(arguments), path=arguments.output)
    print(f"picture: {arguments.output}\n", file=out, flush=True)


def _title(arguments: argparse.Namespace) -> str:
    unseen = {
        "action": "an action space",
        "camera": "a camera",
        "both": "an action space and a camera",
    }[arguments.scenario]
    robots = "a robot" if arguments.embodiments == 1 else f"{arguments.embodiments} robots, each"
    return f"Reach on {robots} with {unseen} never seen in training"


def _figures(outcome: Outcome, arguments: argparse.Namespace) -> dict[str, Any]:
    comparison, stories = outcome.comparison, outcome.stories
    low, high = comparison.gain_interval()
    return {
        "success_before": round(comparison.before.value, 4),
        "success_after": round(comparison.after.value, 4),
        "episodes": comparison.before.episodes,
        "play_s": round(stories[-1].play_s, 2),
        "align_s": round(_mean_align_s(stories), 2),
        "w_version": stories[-1].snapshot.version,
        "w_bytes": stories[-1].snapshot.nbytes,
        "gain_interval": [round(low, 4), round(high, 4)],
        "improved": comparison.improved,
        "worsened": comparison.worsened,
        "scenario": arguments.scenario,
        "embodiments": len(stories),
        "seed": arguments.seed,
        "seconds": round(outcome.seconds, 1),
    }


def _mean_align_s(stories: Sequence[Story]) -> float:
    return sum(story.align_s for story in stories) / len(stories)


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
    add("--episodes", type=_count, default=50, help="start states in all (default 50)")
    add(
        "--embodiments",
        type=_count,
        default=1,
        help="unseen robots to spread them over (default 1)",
    )
    add("--execute", type=_count, help="steps of a chunk to execute before the next (default all)")
    add("--play-steps", type=_count, default=130, help="steps of play a robot (default 130: 13 s)")
    add("--align-steps", type=_count, default=50, help="steps of alignment (default 50)")
    add("--seed", type=int, default=0, help="draws robots, start states and play (default 0)")
    add("--model", type=Path, metavar="DIR", help="model to serve (default: shipped)")
    add(
        "--output",
        type=Path,
        default=Path("demo-output/demo.png"),
        metavar="FILE",
        help="the picture (default demo-output/demo.png)",
    )
    add("--json", action="store_true", help="print nothing but the last line to standard output")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
