"""Where a stage-1 run starts from: nothing, or a model directory that exists."""

import json
from pathlib import Path

import torch

from selfalign.errors import ModelError
from selfalign.hub import resolve_model
from selfalign.model.checkpoint import CONFIG, load_policy
from selfalign.model.config import ModelConfig
from selfalign.model.policy import Policy
from selfalign.pretrain.config import PretrainConfig

# Geometry of what stays frozen after the prefix has been trained.
_OF_PREFIX = ("vision.", "language.", "vocab_size ")
_KEPT = ("init", "init_sha256", "data", "spec")


def model_config_of(init: str) -> ModelConfig:
    """The geometry of a model directory or Hub id. Raises HubError, ModelError."""
    return ModelConfig.load(resolve_model(init) / CONFIG)


def policy_of(config: PretrainConfig) -> Policy:
    """The model that `config.init` names, ready for training in float32.

    Raises:
        HubError: it is nowhere.
        ModelError: it is damaged, or its geometry is not that of the configuration.
    """
    assert config.init is not None, "asked for a start that is not configured"
    directory = resolve_model(config.init)
    _check_geometry(config, ModelConfig.load(directory / CONFIG))
    held = load_policy(directory, dtype=torch.float32)
    policy = Policy(config.model, held.prompts.tokenizer, held.processing)
    policy.load_state_dict(held.state_dict())
    return policy


def recorded(config: PretrainConfig, run: Path) -> PretrainConfig:
    """Write config.json of a run, with the identity of the model that it starts from.

    Raises:
        ModelError: the run was begun from another model, with another geometry or on other data.
    """
    if config.init is not None:
        identity = load_policy(resolve_model(config.init)).base_sha256
        config = config.model_copy(update={"init_sha256": identity})
    file = run / "config.json"
    if file.exists() and (run / "stage1_state.safetensors").exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name in _KEPT:
            was, now = before.get(name), getattr(config, name)
            if was != now:
                raise ModelError(
                    f"{run} was begun with {name} {was}, not {now}; go on as it was begun, or "
                    "choose another directory"
                )
    _check_prefix(config, run)
    file.write_text(config.model_dump_json(indent=2), encoding="utf-8")
    return config


def _check_prefix(config: PretrainConfig, run: Path) -> None:
    """The prefix that a run has trained must be one of this configuration."""
    if not (run / "prefix" / "model.safetensors").exists():
        return
    differ = _differences(config.model, ModelConfig.load(run / "prefix" / CONFIG))
    differ = [what for what in differ if what.startswith(_OF_PREFIX)]
    if differ:
        raise ModelError(
            f"{run} was begun with another geometry than that of configuration {config.name!r}: "
            f"{'; '.join(differ[:5])}; go on as it was begun, or choose another directory"
        )


def _check_geometry(config: PretrainConfig, held: ModelConfig) -> None:
    wrong = _differences(config.model, held)
    if wrong:
        raise ModelError(
            f"{config.init} has another geometry than model of configuration {config.name!r}: "
            f"{'; '.join(wrong[:5])}; without `model` the configuration takes that of --init"
        )


def _differences(wanted: ModelConfig, held: ModelConfig) -> list[str]:
    asked, found = (_flat(model.model_dump(exclude={"variant"})) for model in (wanted, held))
    return [f"{key} is {found[key]}, not {asked[key]}" for key in asked if found[key] != asked[key]]


def _flat(data: dict[str, object], prefix: str = "") -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out
