"""The debug configurations run through, and two real processes train the model that one trains."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfalign.data.recording import Recording
from selfalign.model.checkpoint import load_policy
from selfalign.pretrain.__main__ import main
from selfalign.pretrain.cache import build_cache
from selfalign.pretrain.command import load_config, shipped
from selfalign.pretrain.config import PretrainConfig
from selfalign.pretrain.trainer import prefix_policy

DEBUG = ("tiny_debug", "pi05_alignment_debug")


def write_short(name: str, folder: Path) -> Path:
    """A debug configuration with few iterations and one family, in a file."""
    text = shipped()[name].read_text(encoding="utf-8")
    changes = {
        r"^iterations = 20$": "iterations = 3",
        r"^evaluate_on = 2$": "evaluate_on = 1",
        r"^families = .*$": "families = { tool_rotated = 1.0 }",
    }
    for long, short in changes.items():
        text, count = re.subn(long, short, text, flags=re.MULTILINE)
        assert count, f"{name} has no {long}"
    file = folder / "short.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", DEBUG)
def test_debug_configuration_runs_through(
    name: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shortened, on the recording that all tests share; one process is a run, too."""
    assert main(["--config", str(write_short(name, tmp_path)), "--run", str(run_dir)]) == 0
    assert f"model written to {run_dir / 'model'}" in capsys.readouterr().out
    model = load_policy(run_dir / "model")
    assert model.config == load_config(name).model
    assert not torch.equal(model.w0_W1, load_policy(run_dir / "prefix").w0_W1)


def test_pi05_reads_its_state_in_the_prompt_of_a_demonstration(
    run_dir: Path, config: PretrainConfig
) -> None:
    micro = load_config("pi05_alignment_debug").model
    policy = prefix_policy(
        config.model_copy(
            update={"model": micro, "prefix": config.prefix.model_copy(update={"iterations": 1})}
        ),
        run_dir,
    )
    recording = Recording(run_dir / "recording")
    lengths = build_cache(policy, recording).mask.sum(-1)
    kinds = {e["kind"]: range(e["start"], e["stop"]) for e in recording.episodes}
    image = micro.vision.tokens
    text = next(e["instruction"] for e in recording.episodes if e["kind"] == "demo")
    state = torch.zeros(8).numpy()
    told = len(policy.prompts.ids(text, state))
    assert {int(lengths[row]) for row in kinds["play"]} == {image + 2}, "bos and newline"
    assert int(lengths[kinds["demo"][0]]) == image + told


def test_wrong_configuration_is_refused_by_every_process(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--config", "tini", "--run", str(tmp_path)]) == 2
    assert "tiny_debug" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_of_accelerate_train_what_one_trains(run_dir: Path, tmp_path: Path) -> None:
    file = write_short("tiny_debug", tmp_path)
    two = tmp_path / "two"
    module = ["-m", "selfalign.pretrain", "--config", str(file), "--run"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *module, str(run_dir)], check=True, env=environment)
    two.mkdir()
    for name in ("recording", "frames", "prefix"):
        (two / name).symlink_to(run_dir / name)
    for cache in run_dir.glob("*_cache.safetensors"):
        shutil.copy(cache, two)
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", "0"]
    subprocess.run(
        [sys.executable, "-m", *launch, *module, str(two)], check=True, env=environment, timeout=300
    )

    one, other = (load_file(run / "stage1_state.safetensors") for run in (run_dir, two))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        if tensor.is_floating_point():
            difference = float((tensor - other[name]).norm() / tensor.norm().clamp_min(1e-12))
            assert difference < 3e-6, name
        else:
            assert torch.equal(tensor, other[name]), name
    written = (two / "log.jsonl").read_text(encoding="utf-8").count('"phase": "stage1"')
    assert written == (run_dir / "log.jsonl").read_text(encoding="utf-8").count('"phase": "stage1"')
