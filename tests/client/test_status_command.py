"""`selfalign-client status`: what an operator sees at a glance."""

import json
from typing import Any

import pytest

from client.cli import main
from tests.fakes.http_server import Answer, http_server
from tests.fakes.server_replies import EPISODES, INFO, ROBOT, VERSIONS, session


def status(capsys: Any, *argv: str, **changes: Any) -> str:
    answers = {
        "GET /info": Answer(INFO | changes.pop("info", {})),
        "GET /w": Answer(VERSIONS),
        "GET /align": Answer({"sessions": changes.pop("sessions", [])}),
        "GET /play": Answer(EPISODES | changes),
    }
    with http_server(answers) as fake:
        assert main(["status", "--url", fake.url, *argv]) == 0
    out: str = capsys.readouterr().out
    return out


def test_it_shows_the_model_the_robots_and_the_play(capsys: Any) -> None:
    out = status(capsys)
    for expected in (
        "up 1 min 15 s",
        "model dummy (pi0): 1,234 parameters, 56 in W, images 32 px, chunks of 4 actions, cpu",
        "arm (default)",
        "front 4x6",
        "play: 1 episode, 130 steps; the store takes 5.0 kB of at most 4.0 GB",
        "no alignment yet; begin one with: selfalign-client align start",
    ):
        assert expected in out


def test_it_says_what_the_server_says_of_the_w_that_serves(capsys: Any) -> None:
    notice = "the base W serves: version 1 of robot 'arm' was aligned for another spec"
    out = status(capsys, info={"robots": [ROBOT | {"w_version": 0, "notice": notice}]})
    assert f"\nrobot arm: {notice}\n" in out
    assert "robot arm:" not in status(capsys)


def test_everything_comes_as_json_too(capsys: Any) -> None:
    found = json.loads(status(capsys, "--json"))
    assert found["w"][0]["active"] == 1
    assert set(found) == {"info", "w", "sessions", "play"}


def test_a_session_that_runs_says_how_far_it_is_and_how_to_follow_it(capsys: Any) -> None:
    running = session("running", step=7, detail="reading and encoding the play")
    out = status(capsys, sessions=[running, session()])
    assert "aligning arm: session s-1 running, step 7 of 50 (reading and encoding the play)" in out
    assert "align watch" in out


def test_the_last_session_is_told_with_its_outcome(capsys: Any) -> None:
    out = status(capsys, sessions=[session("rejected", error="the gates rejected it\nin detail")])
    assert "last alignment: arm, session s-1 rejected, W version 1: the gates rejected it\n" in out


def test_what_is_being_recorded_is_shown(capsys: Any) -> None:
    episode = EPISODES["episodes"][0] | {"sealed": False}
    out = status(capsys, episodes=[episode])
    assert "recording arm: episode e1, 130 steps on disk" in out


@pytest.mark.parametrize(
    ("recorder", "worker", "expected"),
    [
        ({}, {}, "recorder starts when it is needed; align worker starts when it is needed"),
        (
            {"running": True, "restarts": 0},
            {"running": True, "ready": False},
            "recorder ready; align worker is loading",
        ),
        (
            {"running": True, "restarts": 1, "last_exit": "killed by SIGKILL"},
            {"running": False, "restarts": 3, "last_exit": "exit status 1"},
            "recorder ready, restarted once (last: killed by SIGKILL); align worker is being "
            "started again, restarted 3 times (last: exit status 1)",
        ),
    ],
)
def test_processes_that_end_are_noticed(
    capsys: Any, recorder: dict[str, Any], worker: dict[str, Any], expected: str
) -> None:
    out = status(capsys, info={"recorder": recorder, "align_worker": worker})
    assert f"\n{expected}\n" in out


def test_alignment_inside_the_server_is_no_process(capsys: Any) -> None:
    out = status(capsys, info={"align_mode": "inproc", "align_worker": {"running": True}})
    assert "alignment in the server itself" in out
