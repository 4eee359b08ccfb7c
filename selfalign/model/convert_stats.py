"""Normalisation of a published checkpoint, carried along as norm_stats.json.

openpi keeps `assets/<asset id>/norm_stats.json`; which of z-score and quantiles it means follows
from the model: quantiles for everything but pi0. LeRobot keeps a pipeline in
policy_preprocessor.json and the numbers in a safetensors file that the pipeline names.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model.convert_config import NORM_STATS, Flavour, read_json
from selfalign.model.convert_source import Source

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
    told, notes = (
        _lerobot(directory, source.settings)
        if source.kind == "lerobot"
        else _openpi(directory, source.config.flavour, asset)
    )
    if told is not None:
        text = json.dumps(told, indent=2) + "\n"
        (target / NORM_STATS).write_text(text, encoding="utf-8")
    return notes


def _openpi(
    directory: Path, flavour: Flavour, asset: str | None
) -> tuple[dict[str, Any] | None, list[str]]:
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
    told = _processing(
        "openpi",
        {
            ours: _filled(stats.get(theirs), method, found[name], theirs)
            for ours, theirs in (("state", "state"), ("action", "actions"))
        },
    )
    notes = [f"normalisation of {name}: {method}"]
    notes.append(
        f"openpi keeps in its code, not in the checkpoint, whether actions are relative to the "
        f"state and whether the prompt has it: if so, write delta_actions and state_in_prompt "
        f"into {NORM_STATS}"
    )
    return told, notes


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


def _lerobot(directory: Path, settings: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
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
    told = _processing(
        "lerobot",
        {
            ours: _filled(_of(tensors, key), _method(modes, kind, path), path, key)
            for ours, key, kind in (
                ("state", "observation.state", "STATE"),
                ("action", "action", "ACTION"),
            )
        },
    )
    told["delta_actions"] = _relative(named.get("relative_actions_processor"), told["action"])
    return told, [
        f"normalisation: state {told['state']['method']}, action {told['action']['method']}"
    ]


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


def _filled(stats: Any, method: str, path: Path, name: str) -> dict[str, Any]:
    """Method and lists of one vector. Raises ModelError when a list that it needs is not there."""
    needs = {
        "z_score": ("mean", "std"),
        "quantile": ("q01", "q99"),
        "quantile10": ("q10", "q90"),
        "min_max": ("min", "max"),
        "identity": (),
    }[method]
    lists = {key: stats[key] for key in _LISTS if stats and stats.get(key) is not None}
    if lacking := [key for key in needs if key not in lists]:
        raise ModelError(f"{path}: {name} is normalised by {method}, but has no {lacking}")
    return {"method": method, **lists}


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


def _processing(kind: str, vectors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "source": kind,
        **vectors,
        "delta_actions": None,
        "image_resize": "pil" if kind == "openpi" else "torch",
        "state_in_prompt": None,
    }
