"""The commands, as an operator types them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.cli import main
from client.play_file import BadPlayFile, PlayFile
from client.tables import duration, size, table
from server.wire.codec import unpack
from server.wire.images import decode_image, encode_png
from server.wire.problems import problem
from tests.fakes.http_server import Answer, http_server
from tests.fakes.server_replies import (
    INFO,
    ROBOT,
    SNAPSHOT,
    VERSIONS,
    W_BYTES,
    W_SHA256,
    event_stream,
    session,
)
from tests.fakes.wire_server import act_reply, receive, send, websocket_server

REPLY = act_reply({"state": [0.5]}) | {"actions": [[0.1], [0.2]]}
SWAP = {"robot": "arm", "active": 0, "previous": 1, "w_sha256": W_SHA256}


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def served(answers: dict[str, Any]) -> Any:
    return http_server({"GET /info": Answer(INFO)} | answers)


def test_no_server_is_one_line_and_code_1(capsys: Any) -> None:
    with served({}) as fake:
        url = fake.url
    code, out, err = run(capsys, "status", "--url", url)
    assert (code, out) == (1, "")
    assert "no SelfAlign server answers" in err
    assert "make serve" in err
    assert err.count("\n") == 1


def test_a_refusal_is_one_line_and_code_1(capsys: Any) -> None:
    with served({}) as fake:
        code, _, err = run(capsys, "w", "activate", "9", "--url", fake.url)
    assert code == 1
    assert err == "selfalign-client: No such resource: POST /w/9/activate [not-found, 404]\n"


def test_act_sends_image_files_as_they_are_and_prints_the_chunk(
    capsys: Any, tmp_path: Path
) -> None:
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    (tmp_path / "front.png").write_bytes(encode_png(image))
    with served({"POST /act": Answer(REPLY)}) as fake:
        code, out, _ = run(
            capsys,
            *("act", "--url", fake.url, "--image", f"front={tmp_path / 'front.png'}"),
            *("--state", "0.5", "--instruction", "touch it"),
        )
    sent = unpack(fake.asked[-1].body)
    assert code == 0
    np.testing.assert_array_equal(decode_image(sent["images"]["front"]), image)
    assert (list(sent["state"]), sent["instruction"]) == ([0.5], "touch it")
    assert "0.10 s  0.2" in out
    assert "W version 3" in out


def test_act_blank_fills_in_from_the_spec(capsys: Any) -> None:
    with served({"POST /act": Answer(REPLY)}) as fake:
        code, out, _ = run(capsys, "act", "--blank", "--json", "--url", fake.url)
    sent = unpack(fake.asked[-1].body)
    assert code == 0
    assert sent["images"]["front"].shape == (4, 6, 3)
    assert list(sent["state"]) == [1.0]
    assert json.loads(out)["actions"] == [[pytest.approx(0.1)], [pytest.approx(0.2)]]


def test_act_says_the_last_command_and_a_blank_robot_with_targets_holds_mid_range(
    capsys: Any,
) -> None:
    item = {"name": "x", "unit": "m", "low": 0.0, "high": 3.0}
    spec = INFO["robots"][0]["spec"] | {"action": [item], "max_step": [0.1], "targets": ["x"]}
    info = INFO | {"robots": [INFO["robots"][0] | {"spec": spec}]}
    sent = []
    for more in ([], ["--previous-action", "0.25"]):
        with served({"POST /act": Answer(REPLY), "GET /info": Answer(info)}) as fake:
            code, _, _ = run(capsys, "act", "--blank", "--url", fake.url, *more)
            sent.append(unpack(fake.asked[-1].body)["previous_action"].tolist())
        assert code == 0
    assert sent == [[1.5], [0.25]]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["act", "--image", "front.png"], "expected CAMERA=FILE"),
        (["act"], "--state is missing; give joint"),
        (["act", "--blank", "--robot", "x"], "knows no robot 'x'; it knows arm"),
        (["act", "--image", "front=/nowhere.png", "--state", "0"], "/nowhere.png: No such file"),
        (["play", "--from", "/nowhere.npz"], "no numpy archive"),
        (["robot", "add", "/nowhere.yaml"], "No such file"),
    ],
)
def test_a_wrong_argument_is_explained(capsys: Any, argv: list[str], message: str) -> None:
    with served({}) as fake:
        code, _, err = run(capsys, *argv, "--url", fake.url)
    assert code == 1
    assert message in err


def test_an_address_that_is_none_is_explained(capsys: Any) -> None:
    code, _, err = run(capsys, "status", "--url", "robot:8000")
    assert code == 1
    assert "is not an address like http://127.0.0.1:8000" in err


def test_a_state_that_is_no_list_is_a_usage_error(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["act", "--state", "a,b"])
    assert caught.value.code == 2
    assert "is not a list like" in capsys.readouterr().err


def test_play_streams_a_file_as_one_episode(capsys: Any, tmp_path: Path) -> None:
    file = play_file(5)
    file.write(tmp_path / "play.npz")
    steps: list[Any] = []

    def talk(connection: Any) -> None:
        assert receive(connection)["meta"] == {"file": "play.npz"}
        send(connection, {"type": "started", "episode": "e1"})
        while (message := receive(connection))["type"] == "step":
            steps.append(message)
        send(connection, {"type": "sealed", "episode": "e1", "length": len(steps)})

    with websocket_server(talk) as url:
        code, out, _ = run(capsys, "play", "--from", str(tmp_path / "play.npz"), "--url", url)
    assert (code, out) == (0, "episode e1: 5 steps on the server's disk\n")
    np.testing.assert_array_equal(steps[3]["images"]["front"], file.images["front"][3])
    assert steps[3]["t_ns"] == 300
    assert steps[3]["instruction"] == "wave"


def align_answers(state: str, **changes: Any) -> dict[str, Any]:
    stream = event_stream(
        ("state", {"state": "running"}),
        ("progress", {"step": 25, "losses": {"alignment/total": 0.5}}),
        ("end", {"state": state}),
    )
    return {
        "POST /align": Answer(session("queued", step=0), status=202),
        "GET /align": Answer({"sessions": [session(state, **changes)]}),
        "GET /align/s-1": Answer(session(state, **changes)),
        "GET /align/s-1/events": Answer(stream, media_type="text/event-stream"),
        "POST /align/s-1/stop": Answer(session("stopped"), status=202),
        "GET /w": Answer(VERSIONS),
    }


def test_align_start_follow_shows_how_it_ended(capsys: Any) -> None:
    with served(align_answers("succeeded")) as fake:
        code, out, _ = run(
            capsys,
            *("align", "start", "--follow", "--url", fake.url, "--robot", "arm"),
            *("--steps", "50", "--off", "perception", "--note", "first"),
        )
    body = json.loads(next(a.body for a in fake.asked if a.route == "POST /align"))
    assert code == 0
    assert body["budget"] == {"steps": 50}
    assert body["losses"] == {"inverse_dynamics": True, "dynamics": True, "perception": False}
    assert body["note"] == "first"
    assert "held-out loss 2 -> 0.5" in out
    assert "W version 1 is active" in out


def test_align_that_is_rejected_says_by_which_gate_and_is_code_1(capsys: Any) -> None:
    check = {"name": "held_out", "passed": False, "message": "0.9 is no better than 0.8"}
    gates = {"passed": False, "checks": [check]}
    error = "the gates rejected the candidate: 0.9 is no better than 0.8"
    with served(align_answers("rejected", gates=gates, error=error, candidate=2)) as fake:
        code, out, _ = run(capsys, "align", "watch", "--url", fake.url)
    assert code == 1
    assert out.count("0.9 is no better than 0.8") == 1
    assert "gate held_out refused it: 0.9 is no better than 0.8" in out
    assert "W version 2 is kept, but does not serve; version 1 serves" in out


def test_align_start_without_follow_says_how_to(capsys: Any) -> None:
    with served(align_answers("succeeded")) as fake:
        _, out, _ = run(
            capsys, "align", "start", "--episodes", "e1", "--seconds", "3", "--url", fake.url
        )
    body = json.loads(fake.asked[0].body)
    assert body["source"] == {"episodes": ["e1"]}
    assert body["budget"] == {"seconds": 3.0}
    assert "align watch s-1" in out


def test_align_manual_waits_for_activation(capsys: Any) -> None:
    with served(align_answers("succeeded", promotion="manual", candidate=2)) as fake:
        _, out, _ = run(capsys, "align", "start", "--manual", "--follow", "--url", fake.url)
    assert "w activate 2 --robot arm" in out


def test_align_stop_and_list(capsys: Any) -> None:
    with served(align_answers("failed", error="worker died")) as fake:
        assert run(capsys, "align", "stop", "--url", fake.url)[1] == "session s-1: stopped\n"
        listed = run(capsys, "align", "list", "--url", fake.url)[1]
        assert "failed" in listed
        assert listed.endswith("worker died\n"), "why it ended stands in the list"
        assert "worker died" in run(capsys, "align", "watch", "s-1", "--url", fake.url)[1]


def test_a_version_that_no_longer_serves_is_not_called_active(capsys: Any) -> None:
    answers = align_answers("succeeded") | {"GET /w": Answer(VERSIONS | {"active": 3})}
    with served(answers) as fake:
        _, out, _ = run(capsys, "align", "watch", "s-1", "--url", fake.url)
    assert "W version 1 became active; version 3 serves" in out


def test_a_session_of_a_robot_that_is_gone_can_be_looked_at(capsys: Any) -> None:
    answers = align_answers("succeeded")
    del answers["GET /w"]
    with served(answers) as fake:
        code, out, _ = run(capsys, "align", "watch", "s-1", "--url", fake.url)
    assert code == 0
    assert out.endswith("W version 1 became active\n")


def test_long_reasons_are_cut_in_the_list_of_sessions(capsys: Any) -> None:
    with served(align_answers("failed", error="x" * 300)) as fake:
        listed = run(capsys, "align", "list", "--url", fake.url)[1]
        watched = run(capsys, "align", "watch", "--url", fake.url)[1]
    assert f"{97 * 'x'}...\n" in listed
    assert 300 * "x" in watched


def test_without_any_session_it_is_said_how_to_begin(capsys: Any) -> None:
    with served({"GET /align": Answer({"sessions": []})}) as fake:
        code, _, err = run(capsys, "align", "watch", "--url", fake.url)
        assert (code, "align start" in err) == (1, True)
        code, out, _ = run(capsys, "align", "list", "--url", fake.url)
        assert (code, "align start" in out) == (0, True)


def test_a_bar_is_drawn_for_people_only(capsys: Any) -> None:
    with served(align_answers("succeeded")) as fake:
        assert run(capsys, "align", "watch", "--url", fake.url)[2] == ""


def test_w_commands(capsys: Any, tmp_path: Path) -> None:
    answers = {
        "GET /w": Answer(VERSIONS),
        "GET /w/1": Answer(W_BYTES, headers={"etag": f'"{W_SHA256}"'}),
        "POST /w": Answer(SNAPSHOT, status=201),
        "POST /w/0/activate": Answer(SWAP),
        "POST /w/rollback": Answer(SWAP),
    }
    path = tmp_path / "w.safetensors"
    with served(answers) as fake:
        url = ("--url", fake.url)
        assert "version 1 serves" in run(capsys, "w", "list", *url)[1]
        assert run(capsys, "w", "get", "1", "-o", str(path), *url)[0] == 0
        assert path.read_bytes() == W_BYTES
        assert "version 1: active" in run(capsys, "w", "upload", str(path), *url)[1]
        assert "version 0 serves (before: 1)" in run(capsys, "w", "activate", "0", *url)[1]
        assert "version 0 serves (before: 1)" in run(capsys, "w", "rollback", *url)[1]


def test_w_list_says_why_a_version_cannot_serve(capsys: Any) -> None:
    reason = "version 1 of robot 'arm' was aligned for another spec of this robot"
    stale = SNAPSHOT | {"status": "retired", "cannot_serve": reason}
    base = SNAPSHOT | {"version": 0, "status": "active"}
    body = {"robot": "arm", "active": 0, "versions": [base, stale]}
    with served({"GET /w": Answer(body)}) as fake:
        out = run(capsys, "w", "list", "--url", fake.url)[1]
    assert "retired (!)" in out
    assert "active (!)" not in out
    assert out.endswith(f"(!) cannot serve:\n{reason}\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("arm.yaml", "name: arm\nrate_hz: 10"),
        ("arm.toml", 'name = "arm"\nrate_hz = 10'),
        ("arm.json", '{"name": "arm", "rate_hz": 10}'),
    ],
)
def test_robot_add_reads_a_spec_file(capsys: Any, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with served({"POST /robots": Answer(ROBOT, status=201)}) as fake:
        code, out, _ = run(capsys, "robot", "add", str(tmp_path / name), "--url", fake.url)
    assert code == 0
    assert json.loads(fake.asked[0].body) == {"name": "arm", "rate_hz": 10}
    assert "robot arm is known" in out


def test_robot_add_says_what_is_to_be_known_of_its_w(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "arm.json").write_text('{"name": "arm"}')
    answer = Answer(ROBOT | {"w_version": 0, "notice": "the base W serves: as it is"}, status=201)
    with served({"POST /robots": answer}) as fake:
        out = run(capsys, "robot", "add", str(tmp_path / "arm.json"), "--url", fake.url)[1]
    assert out.endswith("W version 0 serves it\nthe base W serves: as it is\n")


def test_robot_list(capsys: Any) -> None:
    body = {"default": "arm", "robots": [ROBOT]}
    with served({"GET /robots": Answer(body)}) as fake:
        assert "arm (default)" in run(capsys, "robot", "list", "--url", fake.url)[1]


def play_file(steps: int) -> PlayFile:
    rng = np.random.default_rng(0)
    return PlayFile(
        images={"front": rng.integers(0, 255, (steps, 4, 6, 3), dtype=np.uint8)},
        state=rng.normal(size=(steps, 1)).astype(np.float32),
        action=rng.normal(size=(steps, 1)).astype(np.float32),
        t_ns=100 * np.arange(steps, dtype=np.int64),
        instruction="wave",
    )


def test_a_play_file_comes_back_as_it_was(tmp_path: Path) -> None:
    file = play_file(3)
    file.write(tmp_path / "play.npz")
    back = PlayFile.read(tmp_path / "play.npz")
    np.testing.assert_array_equal(back.images["front"], file.images["front"])
    np.testing.assert_array_equal(back.action, file.action)
    assert back.instruction == "wave"


def test_a_play_file_with_rows_missing_says_which(tmp_path: Path, capsys: Any) -> None:
    file = play_file(3)
    with (tmp_path / "play.npz").open("wb") as stream:
        np.savez(stream, state=file.state, action=file.action[:2], t_ns=file.t_ns)
    assert "lacks images/<camera>" in run(capsys, "play", "--from", str(tmp_path / "play.npz"))[2]
    images = {"images/front": file.images["front"]}
    with (tmp_path / "play.npz").open("wb") as stream:
        np.savez(stream, state=file.state, action=file.action[:2], t_ns=file.t_ns, **images)
    assert "different length" in run(capsys, "play", "--from", str(tmp_path / "play.npz"))[2]


def test_a_play_file_that_is_none_says_what_is_expected(tmp_path: Path) -> None:
    text, lone, objects = (tmp_path / name for name in ("notes.txt", "lone.npy", "objects.npz"))
    text.write_text("not play")
    np.save(lone, np.zeros(3))
    np.savez(objects, state=np.array([{}], dtype=object))
    for path, reason in (
        (tmp_path / "missing.npz", "missing.npz is no numpy archive .* No such file"),
        (text, "expected what numpy.savez writes"),
        (lone, "expected what numpy.savez writes"),
        (objects, "objects where arrays of numbers are expected"),
    ):
        with pytest.raises(BadPlayFile, match=reason) as caught:
            PlayFile.read(path)
        assert "pickle" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"state": np.float32(3)}, r"state must be numbers \[n, m\], got float32 \[\]"),
        ({"state": np.array(["a"] * 3)}, r"state must be numbers \[n, m\], got <U1"),
        ({"t_ns": np.arange(3) * 0.1}, "t_ns must be integers .* nanoseconds, got float64"),
        ({"instruction": np.array(["go"] * 3)}, "instruction must be one text, got <U2"),
        ({"images/front": np.zeros((3, 4, 6), np.uint8)}, "images/front must be uint8 .*width, 3"),
    ],
)
def test_a_play_file_with_an_array_of_another_kind_says_which(
    tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    path, file = tmp_path / "play.npz", play_file(3)
    whole: dict[str, Any] = {
        "images/front": file.images["front"],
        "state": file.state,
        "action": file.action,
    }
    np.savez(path, allow_pickle=False, **{**whole, "t_ns": file.t_ns, **wrong})
    with pytest.raises(BadPlayFile, match=said):
        PlayFile.read(path)


def test_a_play_file_without_a_step_is_refused(tmp_path: Path) -> None:
    play_file(0).write(tmp_path / "play.npz")
    with pytest.raises(BadPlayFile, match="holds no step"):
        PlayFile.read(tmp_path / "play.npz")


def test_play_that_is_refused_half_way_says_what_remains(capsys: Any, tmp_path: Path) -> None:
    play_file(3).write(tmp_path / "play.npz")

    def talk(connection: Any) -> None:
        receive(connection)
        send(connection, {"type": "started", "episode": "e1"})
        receive(connection)
        refused = problem("bad-play-step", "state is NaN").model_dump()
        send(connection, {"type": "error", "problem": refused})
        receive(connection)

    with websocket_server(talk) as url:
        code, _, err = run(capsys, "play", "--from", str(tmp_path / "play.npz"), "--url", url)
    assert code == 1
    assert "not all of play.npz was recorded" in err
    assert "selfalign-client play delete e1" in err
    assert "state is NaN" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "0"], "steps: Input should be greater than or equal to 1"),
        (["--off", "dynamics", "--off", "perception", "--off", "inverse_dynamics"], "at least one"),
        (["--note", "a" * 501], "note: String should have at most 500"),
    ],
)
def test_a_session_that_cannot_be_asked_for_is_said_in_a_line(
    capsys: Any, argv: list[str], message: str
) -> None:
    code, _, err = run(capsys, "align", "start", *argv)
    assert (code, err.count("\n")) == (1, 1)
    assert message in err
    assert "pydantic" not in err


def test_a_session_of_a_strange_name_is_not_another_route(capsys: Any) -> None:
    with served({}) as fake:
        run(capsys, "align", "watch", "../w", "--url", fake.url)
        assert fake.asked[-1].route == "GET /align/..%2Fw"


def test_tables_align_numbers_to_the_right() -> None:
    assert table(["name", "n"], [["a", 5], ["long", 12345]]).splitlines() == [
        "name      n",
        "----  -----",
        "a         5",
        "long  12345",
    ]


@pytest.mark.parametrize(
    ("nbytes", "text"), [(999, "999 B"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (3e12, "3.0 TB")]
)
def test_sizes_read_well(nbytes: float, text: str) -> None:
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.23, "1.2 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
