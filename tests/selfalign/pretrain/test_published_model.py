"""From a published checkpoint to a trained model: convert, attach, stage 1, by ids of the Hub."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("pyarrow") is None or importlib.util.find_spec("av") is None:
    pytest.skip("pyarrow or PyAV is not installed", allow_module_level=True)

from selfalign.cli import main
from selfalign.model.attach import attach
from selfalign.model.checkpoint import load_policy
from selfalign.model.convert import convert
from tests.fakes.hub_cache import COMMIT, cached, go_offline
from tests.fakes.lerobot_dataset import Written
from tests.fakes.published import (
    as_openpi_keeps_it,
    published_shapes,
    random_tensors,
    small_config,
    write_checkpoint,
)

SHORT = """
name = "short"
log_every = 1
[stage1]
iterations = 2
slots = 2
slots_per_iteration = 1
transitions = 2
demo_frames = 2
"""
REVISION = {"main": COMMIT}


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_a_checkpoint_and_a_dataset_of_the_hub_make_a_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flavour: str,
) -> None:
    hub = go_offline(monkeypatch, tmp_path / "hub")
    geometry = small_config(flavour)
    tensors = as_openpi_keeps_it(random_tensors(published_shapes(geometry)))
    source = write_checkpoint(tmp_path / "published", tensors)
    convert(source, tmp_path / "converted", like=geometry, cameras=("front",))
    attach(tmp_path / "converted", cached(hub, "models--org--attached", REVISION))
    Written(lengths=(9, 8, 9, 8), as_video=False).write(
        cached(hub, "datasets--org--play", REVISION)
    )
    config, run = tmp_path / "short.toml", tmp_path / "run"
    config.write_text(SHORT)

    words = ["pretrain", "--config", str(config), "--run", str(run)]
    status = main([*words, "--init", "org/attached", "--data", "org/play@main"])

    assert status == 0, capsys.readouterr().err
    before = load_policy(hub / "models--org--attached" / "snapshots" / COMMIT)
    after = load_policy(run / "model")
    assert after.config.flavour == flavour
    assert not torch.equal(after.w0_W1, before.w0_W1)
    held = json.loads((run / "config.json").read_text())
    assert (held["init"], held["data"]) == ("org/attached", "org/play@main")
    assert held["init_sha256"] == before.base_sha256
