"""The `selfalign` command: what it prints, and how it refuses."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from selfalign.cli import main
from selfalign.model.checkpoint import save_policy
from tests.fakes.models import random_policy

SPEC = """
name: toy
rate_hz: 10
cameras: [{name: front, height: 96, width: 128}]
state: [{name: joint_1, unit: rad, low: -1.5, high: 1.5}]
action: [{name: delta_x, unit: m, low: -0.04, high: 0.04}]
default_instruction: touch the red cube
"""
needs_mujoco = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None, reason="MuJoCo is not installed"
)


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def assert_refused(captured: pytest.CaptureFixture[str], *words: str) -> None:
    out, error = captured.readouterr()
    assert not out
    assert error.startswith("selfalign: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command in ("pretrain", "record", "info", "spec"):
        assert re.search(rf"^    {command} +\w", text, re.MULTILINE), command


def test_help_of_pretrain_names_the_configurations_that_ship(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    assert "tiny" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["dance"], ["pretrain"], ["spec"], ["info", "--modle", "x"]])
def test_wrong_usage_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: selfalign" in capsys.readouterr().err


def test_info_shows_parts_identity_and_w(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = random_policy()
    save_policy(policy, tmp_path)
    assert main(["info", "--model", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "dummy (pi0)" in out
    assert policy.base_sha256 in out
    assert "288 numbers (1.1 KiB) in layers (0, 1)" in out
    counts = policy.num_parameters()
    assert counts["w"] == 288
    for part, count in counts.items():
        assert re.search(rf"^  {part} +{count:,}$", out, re.MULTILINE), part
    assert f"{sum(counts.values()):,}" in out


def test_info_on_what_is_no_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--model", str(tmp_path)]) == 2
    assert_refused(capsys, "config.json does not exist")


def test_info_on_a_model_with_a_wrong_field_names_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = random_policy()
    save_policy(policy, tmp_path)
    config = json.loads(policy.config.model_dump_json()) | {"horizon": 0, "colour": "red"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["info", "--model", str(tmp_path)]) == 2
    assert_refused(capsys, "horizon: Input should be greater", "colour: Extra inputs")


def test_spec_shows_what_it_declares(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spec", str(spec_file)]) == 0
    out = capsys.readouterr().out
    assert "toy, 10 Hz" in out
    assert "front: 96 x 128 pixels" in out
    assert re.search(r"joint_1 +-1.5 to 1.5 rad", out)
    assert re.search(r"delta_x +-0.04 to 0.04 m", out)
    assert "touch the red cube" in out


def test_spec_names_targets(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = Path(__file__).parents[2] / "server" / "specs" / "panda_joints.yaml"
    assert main(["spec", str(shipped)]) == 0
    assert "\ntargets  joint_1, joint_2, joint_3" in capsys.readouterr().out


def test_spec_as_yaml_can_be_read_again(
    spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spec", str(spec_file), "--yaml"]) == 0
    again = tmp_path / "again.yaml"
    again.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["spec", str(spec_file)]) == main(["spec", str(again)]) == 0
    first, second = capsys.readouterr().out.split("robot ")[1:]
    assert first == second


def test_wrong_spec_is_refused_by_field(
    spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec_file.write_text(SPEC.replace("high: 1.5", "high: -2"), encoding="utf-8")
    assert main(["spec", str(spec_file)]) == 2
    assert_refused(capsys, "toy.yaml", "state")


def test_spec_that_is_no_yaml_is_refused_in_one_line(
    spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec_file.write_text("name: [\n  {", encoding="utf-8")
    assert main(["spec", str(spec_file)]) == 2
    assert_refused(capsys, "not valid YAML")


def test_missing_spec_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spec", str(tmp_path / "nothing.yaml")]) == 2
    assert_refused(capsys, "nothing.yaml")


def test_unknown_configuration_is_refused_with_those_that_ship(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--config", "tini", "--run", str(tmp_path)]) == 2
    assert_refused(capsys, "'tini'", "tiny")


def test_wrong_field_of_a_configuration_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nmodel = "dummy"\n[stage1]\nslot = 3\n', encoding="utf-8")
    assert main(["record", "--config", str(path), "--run", str(tmp_path)]) == 2
    assert_refused(capsys, "mine.toml", "stage1.slot: Extra inputs")


def test_missing_configuration_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--config", str(tmp_path / "a.toml"), "--run", str(tmp_path)]) == 2
    assert_refused(capsys, "a.toml does not exist")


@needs_mujoco
def test_record_records_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "micro.toml"
    path.write_text(
        'name = "micro"\nmodel = "dummy"\n[record]\ngroups = 2\nheld_out_groups = 1\n'
        "play_episodes = 1\nplay_steps = 8\ndemos = 1\nframes = 2\n",
        encoding="utf-8",
    )
    argv = ["record", "--config", str(path), "--run", str(tmp_path / "run")]
    assert main(argv) == 0
    first = capsys.readouterr().out
    assert re.search(r"recording: \d+ frames in 4 episodes, 2 single frames", first)
    written = (tmp_path / "run" / "recording" / "images.npy").stat().st_mtime_ns
    assert main(argv) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "run" / "recording" / "images.npy").stat().st_mtime_ns == written


def test_export_of_a_folder_that_is_not_there_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--play", str(tmp_path / "no"), "--to", str(tmp_path / "to")]) == 2
    assert_refused(capsys, "no is no directory; give the play store of a server")


def test_only_what_goes_on_after_an_interruption_says_that_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("selfalign.data.lerobot_export.export_play", interrupted)
    monkeypatch.setattr("selfalign.pretrain.record.record_missing", interrupted)
    assert main(["export", "--play", str(tmp_path), "--to", str(tmp_path / "to")]) == 130
    assert capsys.readouterr().err == "\nselfalign: interrupted\n"
    assert main(["record", "--config", "tiny_debug", "--run", str(tmp_path)]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
