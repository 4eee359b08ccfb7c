"""The geometry of a published checkpoint, from its config.json and from what its keys say."""

import json
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from selfalign.errors import ModelError
from selfalign.model.config import (
    ModelConfig,
    gemma_variant,
    pi0_config,
    pi05_config,
    wrong_fields,
)

Flavour = Literal["pi0", "pi05"]
Kind = Literal["openpi", "lerobot", "selfalign"]

# openpi's code names three slots, whatever the robot (models/model.py); masked ones are left out.
_OPENPI_CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
_IMAGES, _EMPTY = "observation.images.", "empty_camera_"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelError when there is none."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(told, dict):
        raise ModelError(f"{path} holds {type(told).__name__}, not an object")
    return cast("dict[str, Any]", told)


def source_settings(directory: Path) -> tuple[Kind, dict[str, Any]]:
    """Who wrote a model directory, and its config.json; none is openpi's trainer ({})."""
    path = directory / "config.json"
    if not path.is_file():
        return "openpi", {}
    told = read_json(path)
    if "language" in told and "vision" in told:
        return "selfalign", told
    return ("lerobot" if "type" in told else "openpi"), told


def published_config(
    kind: Kind,
    told: dict[str, Any],
    flavour: Flavour,
    *,
    horizon: int | None = None,
    like: ModelConfig | None = None,
) -> ModelConfig:
    """The configuration of a published checkpoint, before TTT and alignment are attached.

    Args:
        kind: Who wrote it.
        told: Its config.json.
        flavour: What its keys say; openpi's config.json does not.
        horizon: Commands in a chunk, where no config.json says so.
        like: Geometry to take instead of the one that the named variants have.

    Raises:
        ModelError: config.json contradicts the keys, or leaves open what only it can say.
    """
    base = like or (pi05_config() if flavour == "pi05" else pi0_config())
    if base.flavour != flavour:
        raise ModelError(f"the keys are those of {flavour}, not of {base.flavour}")
    if like is None:
        base = _with_variants(base, told)
    fields = _lerobot_fields(told, flavour) if kind == "lerobot" else _openpi_fields(told)
    horizon = horizon or fields.pop("horizon", None) or (like.horizon if like else None)
    if horizon is None:
        raise ModelError(
            "nothing in the source says how many actions a chunk has (no action_horizon or "
            "chunk_size in config.json); give --horizon"
        )
    data = base.model_dump() | fields | {"horizon": horizon, "attached": False}
    try:
        return ModelConfig.model_validate(data)
    except ValidationError as error:
        raise ModelError(f"config.json of the source: {wrong_fields(error)}") from None


def with_option(config: ModelConfig, name: str, value: object) -> ModelConfig:
    """A configuration with one field as `--name` of the command says it.

    Raises:
        ModelError: the field cannot have that value.
    """
    try:
        return ModelConfig.model_validate(config.model_dump() | {name: value})
    except ValidationError as error:
        raise ModelError(f"--{name.replace('_', '-')}: {wrong_fields(error)}") from None


def named_cameras(config: ModelConfig, names: tuple[str, ...]) -> ModelConfig:
    """A configuration whose cameras are called otherwise.

    Raises:
        ModelError: there are not as many names as cameras, or one comes twice.
    """
    if config.cameras and len(names) > len(config.cameras):
        raise ModelError(
            f"{len(names)} names for cameras ({', '.join(names)}), but the checkpoint was trained "
            f"with {len(config.cameras)}: {', '.join(config.cameras)}; give a name for each of the "
            "first ones, in this order"
        )
    return with_option(config, "cameras", names)


def _with_variants(base: ModelConfig, told: dict[str, Any]) -> ModelConfig:
    language = gemma_variant(_plain(told.get("paligemma_variant", "gemma_2b")))
    action = gemma_variant(_plain(told.get("action_expert_variant", "gemma_300m")))
    alignment = action.model_copy(
        update={"depth": min(base.alignment.depth, action.depth)},
    )
    return base.model_copy(
        update={"language": language, "action": action, "alignment": alignment},
    )


def _plain(variant: str) -> str:
    """openpi's PyTorch model has no LoRA: a `_lora` variant has the plain one's weights."""
    return str(variant).removesuffix("_lora")


def _openpi_fields(told: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"cameras": _OPENPI_CAMERAS, "flow_clock": "summed"}
    if "action_dim" in told:
        out |= {"action_dim": told["action_dim"], "state_dim": told["action_dim"]}
    if "action_horizon" in told:
        out["horizon"] = told["action_horizon"]
    if "max_token_len" in told:
        out["max_prompt_tokens"] = told["max_token_len"]
    return out


def _lerobot_fields(told: dict[str, Any], flavour: Flavour) -> dict[str, Any]:
    if told["type"] != flavour:
        raise ModelError(f"config.json says type {told['type']!r}, but the keys are of {flavour}")
    if told.get("use_proprioceptive_memory"):
        raise ModelError("config.json asks for proprioceptive memory, which this code has not")
    if tuple(told.get("image_resolution", (224, 224))) != (224, 224):
        raise ModelError(
            f"image_resolution {told['image_resolution']}: only 224 x 224 is supported"
        )
    names = {
        "max_state_dim": "state_dim",
        "max_action_dim": "action_dim",
        "chunk_size": "horizon",
        "num_inference_steps": "flow_steps",
        "tokenizer_max_length": "max_prompt_tokens",
        "min_period": "min_period",
        "max_period": "max_period",
    }
    out = {ours: told[theirs] for theirs, ours in names.items() if theirs in told}
    cameras = _lerobot_cameras(told.get("input_features") or {})
    return out | {"max_cameras": max(3, len(cameras)), "cameras": cameras}


def _lerobot_cameras(features: dict[str, Any]) -> tuple[str, ...]:
    """The cameras in LeRobot's order: that of config.json. Empty ones stand for none."""
    visual = [key for key, feature in features.items() if feature.get("type") == "VISUAL"]
    names = (key.removeprefix(_IMAGES) for key in visual)
    return tuple(name for name in names if not name.startswith(_EMPTY))
