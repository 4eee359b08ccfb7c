"""Normalisation travels with a converted checkpoint, in the form that its flavour means."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from selfalign.errors import ModelError
from selfalign.model.convert import Converted, convert
from selfalign.model.processing import Processing
from tests.fakes.published import published_shapes, random_tensors, small_config, write_checkpoint

VECTOR = {"mean": [0.5, 1.0], "std": [0.1, 2.0], "q01": [-1.0, -2.0], "q99": [1.0, 2.5]}
OPENPI = {"action_dim": 32, "action_horizon": 5}


def checkpoint(root: Path, flavour: str, told: dict[str, Any]) -> Path:
    tensors = random_tensors(published_shapes(small_config(flavour)))
    return write_checkpoint(root / "run" / "source", tensors, told)


def add_asset(assets: Path, name: str, **changes: Any) -> None:
    (assets / name).mkdir(parents=True)
    stats = {"state": VECTOR, "actions": VECTOR | changes}
    text = json.dumps({"norm_stats": stats})
    (assets / name / "norm_stats.json").write_text(text, encoding="utf-8")


def done(source: Path, flavour: str, **options: Any) -> tuple[Converted, Processing | None]:
    target = source.parents[1] / "target"
    result = convert(source, target, like=small_config(flavour), **options)
    return result, Processing.of_directory(target)


@pytest.mark.parametrize(("flavour", "method"), [("pi0", "z_score"), ("pi05", "quantile")])
def test_openpi_means_z_score_for_pi0_and_quantiles_for_the_rest(
    tmp_path: Path, flavour: str, method: str
) -> None:
    source = checkpoint(tmp_path, flavour, OPENPI)
    add_asset(source / "assets", "physical-intelligence/libero", mean=[7.0, 8.0])
    result, told = done(source, flavour)
    assert told is not None
    assert (told.source, told.image_resize) == ("openpi", "pil")
    assert (told.state.method, told.action.method) == (method, method)
    assert told.state.mean == (0.5, 1.0)
    assert told.action.mean == (7.0, 8.0)
    assert told.action.q99 == (1.0, 2.5)
    assert f"normalisation of physical-intelligence/libero: {method}" in result.notes


def test_assets_beside_the_checkpoint_are_found(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, "pi0", OPENPI)
    add_asset(source.parent / "assets", "droid")
    assert done(source, "pi0")[1] is not None


def test_one_of_several_must_be_chosen(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, "pi0", OPENPI)
    add_asset(source / "assets", "droid")
    add_asset(source / "assets", "trossen", std=[3.0, 3.0])
    with pytest.raises(ModelError, match=r"of droid, trossen; choose with --asset"):
        done(source, "pi0")
    with pytest.raises(ModelError, match="no normalisation 'ur5e'"):
        done(source, "pi0", asset="ur5e")
    told = done(source, "pi0", asset="trossen")[1]
    assert told is not None
    assert told.action.std == (3.0, 3.0)


def test_none_is_taken_when_asked(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, "pi0", OPENPI)
    add_asset(source / "assets", "droid")
    assert done(source, "pi0", asset="none")[1] is None


def test_checkpoint_without_normalisation_says_so(tmp_path: Path) -> None:
    result, told = done(checkpoint(tmp_path, "pi0", OPENPI), "pi0")
    assert told is None
    assert any("no normalisation found" in note for note in result.notes)


def test_quantiles_that_are_null_are_refused_where_they_are_needed(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, "pi05", OPENPI)
    add_asset(source / "assets", "droid", q01=None)
    with pytest.raises(ModelError, match=r"is no normalisation: action: .*q01"):
        done(source, "pi05")


# --- LeRobot --------------------------------------------------------------------------------------


def lerobot(root: Path, flavour: str, *, relative: dict[str, Any] | None = None) -> Path:
    source = checkpoint(root, flavour, {"type": flavour, "chunk_size": 5})
    state_file = "policy_preprocessor_step_2_normalizer_processor.safetensors"
    mode = "QUANTILES" if flavour == "pi05" else "MEAN_STD"
    norm_map = {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    steps: list[dict[str, Any]] = [
        {"registry_name": "rename_observations_processor", "config": {}},
        {"registry_name": "relative_actions_processor", "config": relative or {}},
        {
            "registry_name": "normalizer_processor",
            "config": {"eps": 1e-8, "norm_map": norm_map},
            "state_file": state_file,
        },
    ]
    pipeline = {"name": "policy_preprocessor", "steps": steps}
    (source / "policy_preprocessor.json").write_text(json.dumps(pipeline), encoding="utf-8")
    vectors = {"observation.state": VECTOR, "action": VECTOR | {"std": [4.0, 5.0]}}
    stats = {
        f"{key}.{name}": torch.tensor(values)
        for key, vector in vectors.items()
        for name, values in vector.items()
    }
    stats["action.count"] = torch.tensor([9])
    stats["observation.images.top.mean"] = torch.zeros(3, 1, 1)
    save_file(stats, source / state_file)
    return source


@pytest.mark.parametrize(("flavour", "method"), [("pi0", "z_score"), ("pi05", "quantile")])
def test_lerobot_says_how_it_normalises(tmp_path: Path, flavour: str, method: str) -> None:
    told = done(lerobot(tmp_path, flavour), flavour)[1]
    assert told is not None
    assert (told.source, told.image_resize) == ("lerobot", "torch")
    assert (told.state.method, told.action.method) == (method, method)
    assert told.action.std == (4.0, 5.0)
    assert told.state.q99 == (1.0, 2.5)
    assert told.delta_actions is None


@pytest.mark.parametrize(
    ("config", "mask"),
    [
        ({"enabled": False, "exclude_joints": ["gripper"]}, None),
        ({"enabled": True, "exclude_joints": [], "action_names": None}, (True, True)),
        (
            {
                "enabled": True,
                "exclude_joints": ["Gripper"],
                "action_names": ["joint_1.pos", "left_gripper.pos"],
            },
            (True, False),
        ),
    ],
)
def test_relative_actions_of_lerobot_become_a_mask(
    tmp_path: Path, config: dict[str, Any], mask: tuple[bool, ...] | None
) -> None:
    told = done(lerobot(tmp_path, "pi0", relative=config), "pi0")[1]
    assert told is not None
    assert told.delta_actions == mask


def test_state_file_that_is_missing_is_named(tmp_path: Path) -> None:
    source = lerobot(tmp_path, "pi0")
    (source / "policy_preprocessor_step_2_normalizer_processor.safetensors").unlink()
    with pytest.raises(ModelError, match=r"step_2_normalizer.*cannot be read"):
        done(source, "pi0")


def test_lerobot_without_a_pipeline_says_so(tmp_path: Path) -> None:
    source = lerobot(tmp_path, "pi0")
    (source / "policy_preprocessor.json").unlink()
    result, told = done(source, "pi0")
    assert told is None
    assert any("no policy_preprocessor.json" in note for note in result.notes)
