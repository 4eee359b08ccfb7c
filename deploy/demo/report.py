"""What the demonstration found, in words, tables and one line of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from client.tables import duration, size, table
from deploy.demo.embodiments import Scenario
from deploy.demo.story import Story
from selfalign.experiments.paired import Comparison

_UNSEEN: Final[dict[Scenario, str]] = {
    "action": "an action space",
    "camera": "a camera",
    "both": "an action space and a camera",
    "robot": "an arm",
    "all": "an arm, an action space and a camera",
}


@final
@dataclass(frozen=True)
class Outcome:
    """Everything that was found out."""

    stories: tuple[Story, ...]
    comparison: Comparison
    scenario: Scenario
    family: str
    seed: int
    seconds: float
    """How long all of it took [s]."""

    @property
    def align_s(self) -> float:
        """Mean time of one alignment, from the request to the end of the swap [s]."""
        return sum(story.align_s for story in self.stories) / len(self.stories)


def title(outcome: Outcome) -> str:
    """What was tried."""
    count = len(outcome.stories)
    robots = "a robot" if count == 1 else f"{count} robots, each"
    return f"Reach on {robots} with {_UNSEEN[outcome.scenario]} never seen in training"


def one_line(story: Story) -> str:
    """How it went with one robot."""
    before = sum(item.is_success for item in story.before)
    after = sum(item.is_success for item in story.after)
    return (
        f"  success {before}/{len(story.before)} -> {after}/{len(story.after)} after "
        f"{story.play_s:.0f} s of play and {story.align_s:.1f} s of alignment "
        f"(held-out loss {_held_out(story)}){_rejection(story)}"
    )


def report(outcome: Outcome) -> str:
    """Success before and after, and what it took."""
    comparison, last = outcome.comparison, outcome.stories[-1]
    rates = {"base W": comparison.before, "aligned W": comparison.after}
    rows = [[name, f"{rate.successes}/{rate.episodes}", str(rate)] for name, rate in rates.items()]
    low, high = comparison.gain_interval
    gain = comparison.after.value - comparison.before.value
    rejected = sum(story.session.state == "rejected" for story in outcome.stories)
    each = "" if len(outcome.stories) == 1 else " for each robot"
    return "\n".join(
        [
            title(outcome),
            "",
            table(["", "episodes", "success (95 % interval)"], rows),
            "",
            f"gain       {100 * gain:+.0f} points ({100 * low:+.0f} to {100 * high:+.0f}): "
            f"{comparison.improved} episodes better, {comparison.worsened} worse, on the same "
            f"start states (p = {comparison.p_value:.2g})",
            f"play       {last.play_s:.1f} s{each}",
            f"alignment  {outcome.align_s:.1f} s{each}, {last.session.step} steps, from the "
            "request to the swap",
            f"snapshot   version {last.snapshot.version}, {size(last.snapshot.nbytes)}, sha256 "
            f"{last.snapshot.sha256[:12]}",
            *([f"rejected   {rejected} of {len(outcome.stories)} robots"] if rejected else []),
            f"all in     {duration(outcome.seconds)}",
        ]
    )


def figures(outcome: Outcome) -> dict[str, Any]:
    """The last line: what a script wants to know. Success as shares of 1."""
    comparison, last = outcome.comparison, outcome.stories[-1]
    low, high = comparison.gain_interval
    return {
        "success_before": round(comparison.before.value, 4),
        "success_after": round(comparison.after.value, 4),
        "episodes": comparison.before.episodes,
        "play_s": round(last.play_s, 2),
        "align_s": round(outcome.align_s, 2),
        "w_version": last.snapshot.version,
        "w_bytes": last.snapshot.nbytes,
        "gain_interval": [round(low, 4), round(high, 4)],
        "improved": comparison.improved,
        "worsened": comparison.worsened,
        "rejected": sum(story.session.state == "rejected" for story in outcome.stories),
        "scenario": outcome.scenario,
        "family": outcome.family,
        "embodiments": len(outcome.stories),
        "seed": outcome.seed,
        "seconds": round(outcome.seconds, 1),
    }


def successes(stories: Sequence[Story]) -> list[tuple[list[bool], list[bool]]]:
    """Of each robot, which episodes succeeded before and which after."""
    return [
        ([item.is_success for item in story.before], [item.is_success for item in story.after])
        for story in stories
    ]


def _rejection(story: Story) -> str:
    if story.session.state != "rejected":
        return ""
    return f"\n  {story.session.error}; the base W goes on to serve"


def _held_out(story: Story) -> str:
    held_out = story.session.held_out
    if held_out is None or held_out.before is None or held_out.after is None:
        return "not measured"
    return f"{held_out.before:.3g} -> {held_out.after:.3g}"
