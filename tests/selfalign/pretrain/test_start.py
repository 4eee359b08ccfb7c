"""A run on simulated play that starts from a model directory."""

from pathlib import Path

import pytest
import torch

from selfalign.errors import ModelError
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.policy import Policy
from selfalign.pretrain.config import PretrainConfig
from selfalign.pretrain.start import recorded
from selfalign.pretrain.trainer import prefix_policy, pretrain
from tests.fakes.models import random_policy


def test_run_takes_vision_and_prefix_of_the_model_and_trains_none(
    run_dir: Path, config: PretrainConfig, tmp_path: Path
) -> None:
    policy, start = _start(config, tmp_path)

    model = pretrain(start, run_dir)

    assert not (run_dir / "prefix").exists(), "a prefix was trained"
    before, after = policy.state_dict(), load_policy(model).state_dict()
    for name, tensor in after.items():
        if name.startswith(("vision.", "language.", "embed_tokens.")):
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(before["w0_W1"], after["w0_W1"])
    # Adam moves no weight further than the learning rate in a step: it began where the model was.
    moved = (after["action_in_proj.weight"] - before["action_in_proj.weight"]).abs().max()
    most = config.stage1.iterations * config.stage1.learning_rate * 1.1
    assert 0 < float(moved) <= most


def test_with_init_the_prefix_of_the_model_is_trained_on(
    run_dir: Path, config: PretrainConfig, tmp_path: Path
) -> None:
    policy, start = _start(config, tmp_path)
    prefix = config.prefix.model_copy(update={"with_init": True, "iterations": 1})

    seen = prefix_policy(start.model_copy(update={"prefix": prefix}), run_dir)

    before, after = policy.state_dict(), seen.state_dict()
    moved = {k: float((after[k] - before[k]).abs().max()) for k in before if "vision" in k}
    assert 0 < max(v for k, v in moved.items() if "spread" not in k) <= 1.1 * prefix.learning_rate


def test_a_run_does_not_go_on_from_a_prefix_of_another_geometry(
    config: PretrainConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_policy(Policy(config.model), run / "prefix")
    recorded(config, run)
    kept = (run / "config.json").read_text(encoding="utf-8")
    language = config.model.language.model_copy(update={"depth": config.model.language.depth + 1})
    other = config.model.model_copy(update={"language": language})

    with pytest.raises(ModelError, match=r"another geometry .* language\.depth is .* not"):
        recorded(config.model_copy(update={"model": other}), run)

    assert (run / "config.json").read_text(encoding="utf-8") == kept


def _start(config: PretrainConfig, tmp_path: Path) -> tuple[Policy, PretrainConfig]:
    """A random model directory, and the configuration that starts from it."""
    fields = {name: getattr(config.model, name) for name in type(config.model).model_fields}
    policy = random_policy(**{k: v for k, v in fields.items() if k not in ("flavour", "ttt")})
    save_policy(policy, tmp_path / "init")
    start = config.model_copy(update={"init": str(tmp_path / "init"), "model": policy.config})
    return policy, start
