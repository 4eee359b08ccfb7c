"""Stage-1 configurations: what ships loads, what is wrong is named."""

from importlib.resources import files
from pathlib import Path

import pytest

from selfalign.errors import ModelError
from selfalign.model.config import dummy_config, tiny_config
from selfalign.pretrain.config import PretrainConfig
from selfalign.sim.action_spaces import FAMILIES
from selfalign.sim.robots import make_arm
from selfalign.sim.tasks import get_task

SHIPPED = sorted(Path(str(files("selfalign.pretrain") / "configs")).glob("*.toml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configuration_loads_and_names_what_there_is(path: Path) -> None:
    config = PretrainConfig.load(path)
    assert config.name == path.stem
    assert config.record.held_out_groups < config.record.groups
    assert config.stage1.slots_per_iteration <= config.stage1.slots
    assert {*config.stage1.families, *config.stage1.canonical_families} <= set(FAMILIES)
    for arm in config.record.arms:
        make_arm(arm)
    for task in config.record.tasks:
        get_task(task)


def test_tiny_ships() -> None:
    assert "tiny" in [path.stem for path in SHIPPED]
    path = next(path for path in SHIPPED if path.stem == "tiny")
    assert PretrainConfig.load(path).model == tiny_config()


def test_model_may_be_named_or_spelled_out(tmp_path: Path) -> None:
    named = write(tmp_path / "a.toml", 'name = "a"\nmodel = "dummy"\n')
    assert PretrainConfig.load(named).model == dummy_config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\nmodel = "dummy"\nthreds = 2\n', "threds"),
        ('name = "a"\nmodel = "dummy"\n[stage1]\nslot = 2\n', "stage1.slot: Extra"),
        ('name = "a"\nmodel = "dummy"\n[stage1.inner]\nlearning_rate = -1\n', "learning_rate"),
        ('name = "a"\nmodel = "huge"\n', "model"),
        ('model = "dummy"\n', "name"),
        ("name = \n", "not a pretraining configuration"),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        PretrainConfig.load(write(tmp_path / "a.toml", text))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.toml does not exist"):
        PretrainConfig.load(tmp_path / "nowhere.toml")
