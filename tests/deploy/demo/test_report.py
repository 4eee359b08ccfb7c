"""What the demonstration says in the end."""

from typing import Any

import pytest

from deploy.demo.report import Outcome, figures, one_line, report, successes, title
from selfalign.experiments.paired import compare
from tests.fakes.demo_stories import story


def outcome(**changes: Any) -> Outcome:
    stories = changes.pop("stories", (story([False, False], [True, False]),))
    kwargs: dict[str, Any] = {
        "scenario": "both",
        "family": "tool_rotated",
        "seed": 0,
        "seconds": 100.0,
    }
    return Outcome(stories, compare(successes(stories)), **(kwargs | changes))


def test_the_figures_are_those_of_the_stories() -> None:
    found = figures(outcome())
    assert found["success_before"] == 0.0
    assert found["success_after"] == 0.5
    assert (found["episodes"], found["play_s"], found["align_s"]) == (2, 13.0, 2.5)
    assert (found["w_version"], found["w_bytes"]) == (1, 23)
    assert (found["improved"], found["worsened"]) == (1, 0)


def test_several_robots_are_added_up() -> None:
    stories = tuple(story([False, True], [True, True], index=i) for i in range(3))
    found = figures(outcome(stories=stories))
    assert (found["episodes"], found["embodiments"]) == (6, 3)
    assert (found["success_before"], found["success_after"]) == (0.5, 1.0)


def test_the_report_shows_rates_gain_times_and_snapshot() -> None:
    text = report(outcome())
    for expected in ("0/2", "1/2", "+50 points", "1 episodes better", "13.0 s", "2.5 s", "23 B"):
        assert expected in text


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        ("action", "Reach on a robot with an action space never seen in training"),
        ("camera", "Reach on a robot with a camera never seen in training"),
        ("both", "Reach on a robot with an action space and a camera never seen in training"),
        ("robot", "Reach on a robot with an arm never seen in training"),
    ],
)
def test_the_title_says_what_is_unseen(scenario: str, text: str) -> None:
    assert title(outcome(scenario=scenario)) == text


def test_one_robot_in_one_line() -> None:
    assert one_line(story([False], [True])) == (
        "  success 0/1 -> 1/1 after 13 s of play and 2.5 s of alignment (held-out loss 2 -> 0.5)"
    )


def test_a_rejected_w_is_said() -> None:
    stories = (story([False], [True]), story([False], [False], index=1, state="rejected"))
    found = outcome(stories=stories)
    assert figures(found)["rejected"] == 1
    assert "rejected   1 of 2 robots" in report(found)
    assert "too large; the base W goes on to serve" in one_line(stories[1])
