"""`selfalign convert` and `selfalign attach`: what they print, and how they refuse."""

from pathlib import Path

import pytest

from selfalign.cli import main
from selfalign.model.checkpoint import load_policy, save_policy
from tests.fakes.models import random_policy
from tests.fakes.published import write_checkpoint


def test_convert_says_what_it_read_and_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_policy(random_policy(), tmp_path / "a")
    arguments = ["--from", str(tmp_path / "a"), "--to", str(tmp_path / "b"), "--dtype", "bfloat16"]
    assert main(["convert", *arguments]) == 0
    out = capsys.readouterr().out
    assert "dummy (pi0) from selfalign" in out
    assert f"written to {tmp_path / 'b'}" in out
    assert load_policy(tmp_path / "b").config == random_policy().config


def test_convert_names_cameras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_policy(random_policy(), tmp_path / "a")
    arguments = ["--from", str(tmp_path / "a"), "--to", str(tmp_path / "b")]
    assert main(["convert", *arguments, "--cameras", "front,wrist"]) == 0
    assert "cameras in this order: front, wrist" in capsys.readouterr().out
    assert load_policy(tmp_path / "b").config.cameras == ("front", "wrist")
    assert main(["info", "--model", str(tmp_path / "b")]) == 0
    assert "in this order: front, wrist\n" in capsys.readouterr().out


def test_convert_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_checkpoint(tmp_path / "a", {}, {"action_dim": 32, "action_horizon": 5})
    assert main(["convert", "--from", str(source), "--to", str(tmp_path / "b")]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert "neither" in error
    assert not (tmp_path / "b").exists()


def test_attach_refuses_what_has_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_policy(random_policy(), tmp_path / "a")
    arguments = ["--from", str(tmp_path / "a"), "--to", str(tmp_path / "b"), "--ttt-layers", "0,1"]
    assert main(["attach", *arguments]) == 2
    assert "has its TTT layers and alignment expert already" in capsys.readouterr().err


@pytest.mark.parametrize("layers", ["every", "1,x", ""])
def test_attach_wants_layer_numbers(
    layers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["attach", "--from", "a", "--to", str(tmp_path), "--ttt-layers", layers])
    assert "--ttt-layers" in capsys.readouterr().err
