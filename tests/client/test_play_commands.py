"""`selfalign-client play list` and `play delete`, as an operator types them."""

import io
import json
from typing import Any

import pytest

from client.cli import main
from tests.fakes.http_server import Answer, FakeHttp, http_server
from tests.fakes.server_replies import EPISODES

OPEN = {**EPISODES["episodes"][0], "id": "e2", "robot": "leg", "sealed": False, "pinned": True}
FOUND = {**EPISODES, "episodes": [*EPISODES["episodes"], OPEN], "used_bytes": 7_000_000}
ANSWERS: dict[str, Any] = {
    "GET /play": Answer(FOUND),
    "POST /play/delete": Answer({"deleted": ["e1"], "freed_bytes": 5000}),
}


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def deletions(fake: FakeHttp) -> list[Any]:
    return [json.loads(asked.body) for asked in fake.asked if asked.route == "POST /play/delete"]


def say(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_list_shows_every_episode_and_the_room(capsys: Any) -> None:
    with http_server(ANSWERS) as fake:
        code, out, _ = run(capsys, "play", "list", "--url", fake.url)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:6] == ["episode", "robot", "steps", "time", "size", "state"]
    assert lines[2].split() == [
        *("e1", "arm", "130", "13.0", "s", "5.0", "kB", "sealed", "2026-11-24", "06:00:00")
    ]
    assert "recording, pinned" in lines[3]
    assert lines[-1] == (
        "play: 2 episodes, 260 steps; the store takes 7.0 MB of at most 4.0 GB, "
        "2.0 GB free on the disk"
    )


def test_list_of_one_robot_asks_for_it(capsys: Any) -> None:
    with http_server(ANSWERS) as fake:
        run(capsys, "play", "list", "--robot", "arm", "--url", fake.url)
        run(capsys, "play", "--robot", "leg", "--url", fake.url, "list")
    assert [asked.query for asked in fake.asked] == ["robot=arm", "robot=leg"]


def test_list_says_what_quarantine_takes(capsys: Any) -> None:
    found = {**FOUND, "quarantined_bytes": 2_000_000}
    with http_server({"GET /play": Answer(found)}) as fake:
        out = run(capsys, "play", "list", "--url", fake.url)[1]
    assert "2.0 MB of it is in quarantine" in out


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_delete_asks_shows_and_deletes(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    say(monkeypatch, answer)
    with http_server(ANSWERS) as fake:
        code, out, _ = run(capsys, "play", "delete", "e1", "e2", "e1", "--url", fake.url)
    assert code == 0
    assert "delete 2 episodes (10.0 kB) for good? [y/N]" in out
    assert "2026-11-24 06:00:00" in out
    assert "1 episode deleted, 5.0 kB freed" in out
    assert deletions(fake) == [{"episodes": ["e1", "e2"], "pinned": False}]


@pytest.mark.parametrize("answer", ["\n", "n\n", "yesterday\n"])
def test_what_is_not_confirmed_is_not_deleted(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    say(monkeypatch, answer)
    with http_server(ANSWERS) as fake:
        code, out, _ = run(capsys, "play", "delete", "e1", "--url", fake.url)
    assert (code, deletions(fake)) == (1, [])
    assert out.endswith("nothing is deleted\n")


def test_where_nobody_can_confirm_yes_is_asked_for(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, "")
    with http_server(ANSWERS) as fake:
        code, _, err = run(capsys, "play", "delete", "e1", "--url", fake.url)
        assert (code, deletions(fake)) == (1, [])
        assert "give --yes" in err
        code, out, _ = run(capsys, "play", "delete", "e1", "--yes", "--pinned", "--url", fake.url)
    assert code == 0
    assert "[y/N]" not in out
    assert deletions(fake) == [{"episodes": ["e1"], "pinned": True}]


def test_an_episode_that_is_not_there_is_said_before_anything_is_asked(capsys: Any) -> None:
    with http_server(ANSWERS) as fake:
        code, _, err = run(capsys, "play", "delete", "e1", "e9", "--yes", "--url", fake.url)
    assert (code, deletions(fake)) == (1, [])
    assert "no episode 'e9'; selfalign-client play list" in err


def test_play_without_anything_says_what_there_is(capsys: Any) -> None:
    code, _, err = run(capsys, "play")
    assert code == 1
    assert "--from FILE.npz" in err
    assert "list, delete" in err


def test_an_empty_store_says_how_to_fill_it(capsys: Any) -> None:
    with http_server({"GET /play": Answer({**FOUND, "episodes": [], "used_bytes": 0})}) as fake:
        code, out, _ = run(capsys, "play", "list", "--url", fake.url)
    assert code == 0
    assert out.startswith("no play recorded yet; send some with: selfalign-client play --from")
    assert "0 B of at most 4.0 GB" in out


@pytest.mark.parametrize("command", [["list"], ["delete", "e1", "--yes"]])
def test_a_file_to_send_does_not_go_with_a_list_or_a_deletion(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with http_server(ANSWERS) as fake:
        code, _, err = run(capsys, "play", "--from", "play.npz", "--url", fake.url, *command)
    assert (code, list(fake.asked)) == (1, [])
    assert f"--from sends play; it does not go with `play {command[0]}`" in err
