"""Normalisation of a published checkpoint, carried along as norm_stats.json.

openpi keeps `assets/<asset id>/norm_stats.json`; which of z-score and quantiles it means follows
from the model: quantiles for everything but pi0. LeRobot keeps a pipeline in
policy_preprocessor.json and the numbers in a safetensors file that the pipeline names.
"""

import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model.config import wrong_fields
from selfalign.model.convert_config import Flavour, read_json
from selfalign.model.convert_source import Source
from selfalign.model.processing import NORM_STATS, Processing

_LISTS = ("mean", "std", "q01", "q99", "q10", "q90", "min", "max")
_METHODS = {
    "MEAN_STD": "z_score",
    "QUANTILES": "quantile",
    "QUANTILE10": "quantile10",
    "MIN_MAX": "min_max",
    "IDENTITY": "identity",
}


def copy_stats(source: Source, directory: Path, target: Path, *, asset: str | None) -> list[str]:
    """Write norm_stats.json into `target`. Returns what the person should know.

    Raises:
        ModelError: there are several and `asset` names none of them, or one is broken.
    """
    if source.kind == "selfalign":
        if (directory / NORM_STATS).is_file():
            shutil.copyfile(directory / NORM_STATS, target / NORM_STATS)
        return []
    found, notes = (
        _lerobot(directory, source.settings)
        if source.kind == "lerobot"
        else _openpi(directory, source.config.flavour, asset)
    )
    if found is not None:
        found.save(target / NORM_STATS)
    return notes


def _openpi(
    directory: Path, flavour: Flavour, asset: str | None
) -> tuple[Processing | None, list[str]]:
    if asset == "none":
        return None, ["no normalisation taken along, as asked"]
    found = _openpi_assets(directory)
    if not found:
        return None, [f"no normalisation found (assets/*/{NORM_STATS}): the policy has none"]
    if asset is None and len(found) > 1:
        raise ModelError(
            f"{directory} has normalisations of {', '.join(sorted(found))}; choose with --asset "
            "ID, or --asset none"
        )
    name = asset or next(iter(found))
    if name not in found:
        raise ModelError(f"no normalisation {name!r}; there are {', '.join(sorted(found))}")
    stats = read_json(found[name]).get("norm_stats", {})
    method = "z_score" if flavour == "pi0" else "quantile"
    told = {
        "source": "openpi",
        "state": {"method": method, **_lists(stats.get("state"))},
        "action": {"method": method, **_lists(stats.get("actions"))},
        "image_resize": "pil",
    }
    notes = [f"normalisation of {name}: {method}"]
    notes.append(
        f"openpi keeps in its code, not in the checkpoint, whether actions are relative to the "
        f"state and whether the prompt has it: if so, write delta_actions and state_in_prompt "
        f"into {NORM_STATS}"
    )
    return _processing(told, found[name]), notes


def _openpi_assets(directory: Path) -> dict[str, Path]:
    """Files by asset id (it may hold a slash), from here or, as converters leave them, beside."""
    for assets in (directory / "assets", directory.parent / "assets"):
        found = {
            str(path.parent.relative_to(assets)): path
            for path in sorted(assets.glob(f"**/{NORM_STATS}"))
        }
        if found:
            return found
    return {}


def _lerobot(directory: Path, settings: dict[str, Any]) -> tuple[Processing | None, list[str]]:
    path = directory / "policy_preprocessor.json"
    if not path.is_file():
        return None, [f"no {path.name} and so no normalisation: the policy has none"]
    steps = [step for step in read_json(path).get("steps", []) if isinstance(step, dict)]
    named = {str(step.get("registry_name")): step for step in steps}
    step = named.get("normalizer_processor")
    if step is None or not step.get("state_file"):
        return None, [f"{path.name} normalises with no numbers of its own: the policy has none"]
    tensors = _state_file(directory, str(step["state_file"]))
    modes = step.get("config", {}).get("norm_map") or settings.get("normalization_mapping", {})
    state, action = (
        {"method": _method(modes, kind, path), **_of(tensors, key)}
        for key, kind in (("observation.state", "STATE"), ("action", "ACTION"))
    )
    told = {
        "source": "lerobot",
        "state": state,
        "action": action,
        "delta_actions": _relative(named.get("relative_actions_processor"), action),
        "image_resize": "torch",
    }
    made = _processing(told, path)
    return made, [f"normalisation: state {made.state.method}, action {made.action.method}"]


def _state_file(directory: Path, name: str) -> dict[str, Tensor]:
    path = directory / Path(name).name
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} holds the normalisation, but cannot be read: {error}") from None


def _of(tensors: dict[str, Tensor], key: str) -> dict[str, Any]:
    return {
        name: tensors[f"{key}.{name}"].double().flatten().tolist()
        for name in _LISTS
        if f"{key}.{name}" in tensors
    }


def _method(modes: dict[str, str], kind: str, path: Path) -> str:
    mode = str(modes.get(kind, "IDENTITY"))
    if mode not in _METHODS:
        raise ModelError(f"{path}: {kind} is normalised by {mode}, not one of {list(_METHODS)}")
    return _METHODS[mode]


def _lists(stats: Any) -> dict[str, Any]:
    """The lists of one vector that are there; openpi writes null for quantiles it has not."""
    return {key: stats[key] for key in _LISTS if stats and stats.get(key) is not None}


def _relative(step: dict[str, Any] | None, action: dict[str, Any]) -> list[bool] | None:
    """Which actions are relative to the state at the start of the chunk: LeRobot's own rule."""
    config = (step or {}).get("config", {})
    if not config.get("enabled"):
        return None
    excluded = [str(name).lower() for name in config.get("exclude_joints") or [] if name]
    names = config.get("action_names")
    size = max((len(values) for values in action.values() if isinstance(values, list)), default=0)
    if names is None or not excluded:
        return [True] * size
    return [not any(part in str(name).lower() for part in excluded) for name in names]


def _processing(told: dict[str, Any], path: Path) -> Processing:
    try:
        return Processing.model_validate(told)
    except ValidationError as error:
        raise ModelError(f"{path} is no normalisation: {wrong_fields(error)}") from None
