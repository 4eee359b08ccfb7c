"""`python -m server`: what it accepts, and how it refuses: one clear line and exit code 2."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from selfalign.model.checkpoint import save_policy
from server.__main__ import greeting, main, read_settings
from server.listen import StartError, bind
from server.settings import misspelt
from server.version import package_version
from tests.fakes.running import arm_spec, dummy_policy, make_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the server says before it exits with code 2."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    return lines[0]


def test_a_taken_port_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], taken_port: int
) -> None:
    line = refusal(capsys, "--port", str(taken_port))

    assert f"cannot listen on 127.0.0.1:{taken_port}: Address already in use" in line
    assert "--port" in line


def test_a_missing_model_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refusal(capsys, "--port", "0", "--model", str(tmp_path / "none"))

    assert f"{tmp_path / 'none' / 'config.json'} does not exist" in line


def test_a_bad_spec_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save_policy(dummy_policy(), tmp_path / "model")
    spec = tmp_path / "arm.yaml"
    spec.write_text(arm_spec().to_yaml().replace("high: 1.0", "high: -9.0"))
    common = ["--port", "0", "--model", str(tmp_path / "model"), "--data-dir", str(tmp_path / "d")]

    assert "below high" in refusal(capsys, *common, "--spec", str(spec))
    missing = refusal(capsys, *common, "--spec", str(tmp_path / "none.yaml"))
    assert "none.yaml: cannot read the robot spec" in missing


def test_a_robot_beyond_the_model_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save_policy(dummy_policy(), tmp_path / "model")
    cameras = [{"name": f"c{i}", "height": 8, "width": 8} for i in range(9)]
    spec = tmp_path / "octopus.yaml"
    spec.write_text(arm_spec("octopus", cameras=cameras).to_yaml())

    line = refusal(
        capsys, "--port", "0", "--model", str(tmp_path / "model"), "--spec", str(spec),
        "--data-dir", str(tmp_path / "data"),
    )  # fmt: skip

    assert "'octopus' has 9 cameras" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "99999"], "setting port"),
        (["--port", "http"], "setting port"),
        (["--torch-threads", "0"], "setting torch_threads"),
        (["--host", "no.such.host.invalid"], "host 'no.such.host.invalid' cannot be used"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in refusal(capsys, *arguments)


def test_help_names_every_option_and_some_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])

    text = capsys.readouterr().out
    assert left.value.code == 0
    for words in ("--port", "--model", "--spec", "--data-dir", "SELFALIGN_PORT", "examples:"):
        assert words in text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])

    assert capsys.readouterr().out == f"selfalign server {package_version()}\n"


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFALIGN_PORT", "9001")
    monkeypatch.setenv("SELFALIGN_HOST", "0.0.0.0")
    monkeypatch.setenv("SELFALIGN_SPECS", "a.yaml:b.toml")

    settings = read_settings(["--port", "9002"])

    assert (settings.host, settings.port) == ("0.0.0.0", 9002)
    assert settings.specs == (Path("a.yaml"), Path("b.toml"))
    assert read_settings(["--spec", "c.yaml"]).specs == (Path("c.yaml"),)


def test_a_bad_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFALIGN_QUEUE_DEPTH", "many")

    with pytest.raises(StartError, match=r"setting queue_depth: .*'many'"):
        read_settings([])


def test_a_misspelt_variable_is_told_and_what_was_meant() -> None:
    variables = ("SELFALIGN_QUOTA_BYTE", "SELFALIGN_PORT", "SELFALIGN_CHILD", "SELFALIGN_X", "HOME")

    assert misspelt(variables) == [
        "SELFALIGN_QUOTA_BYTE is no setting and changes nothing; "
        "did you mean SELFALIGN_QUOTA_BYTES?",
        "SELFALIGN_X is no setting and changes nothing",
    ]


def test_the_greeting_says_where_what_and_which_w(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path, arm_spec(), arm_spec("leg"))
    with bind("127.0.0.1", 0) as listener:
        words = greeting(runtime, listener)
        port = listener.getsockname()[1]

    assert f"http://127.0.0.1:{port}" in words
    assert f"http://127.0.0.1:{port}/docs" in words
    assert "dummy (pi0)" in words
    assert "arm and 1 more" in words
    assert "version 0 (base)" in words
    assert runtime.policy.base_sha256[:12] in words


def test_port_0_takes_a_free_port() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0
