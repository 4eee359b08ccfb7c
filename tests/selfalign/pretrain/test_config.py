"""Stage-1 configurations: what ships loads, what is wrong is named."""

from importlib.resources import files
from pathlib import Path

import pytest

from selfalign.errors import ModelError
from selfalign.model.checkpoint import empty_policy
from selfalign.model.config import dummy_config, pi0_config, pi05_config, tiny_config
from selfalign.pretrain.config import PretrainConfig
from selfalign.pretrain.inner_loop import trunk_of
from selfalign.sim.action_spaces import FAMILIES
from selfalign.sim.robots import make_arm
from selfalign.sim.tasks import get_task

SHIPPED = sorted(Path(str(files("selfalign.pretrain") / "configs")).glob("*.toml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# Those whose geometry is that of --init.
FULL_SIZE = {"pi0_alignment": pi0_config(), "pi05_alignment": pi05_config()}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configuration_loads_and_names_what_there_is(path: Path) -> None:
    config = PretrainConfig.load(path, model=FULL_SIZE.get(path.stem))
    assert config.name == path.stem
    assert config.record.held_out_groups < config.record.groups
    assert config.stage1.slots_per_iteration <= config.stage1.slots
    assert {*config.stage1.families, *config.stage1.canonical_families} <= set(FAMILIES)
    for arm in config.record.arms:
        make_arm(arm)
    for task in config.record.tasks:
        get_task(task)


@pytest.mark.parametrize("name", sorted(FULL_SIZE))
def test_full_size_configuration_shares_its_slots_as_it_says(name: str) -> None:
    """Nothing is computed: names and shapes only, on the meta device."""
    model = FULL_SIZE[name]
    path = next(path for path in SHIPPED if path.stem == name)
    config = PretrainConfig.load(path, model=model.model_dump(), init="somewhere", data="else")
    policy = empty_policy(config.model)
    trunk = sum(p.numel() for p in trunk_of(policy).values())
    w = policy.live_w0()
    w_bytes = 4 * (w.W1.numel() + w.b1.numel())
    # Frozen weights, and weights, gradients and two moments of the trunk; W and its two moments.
    frozen = sum(p.numel() for p in policy.parameters()) - trunk
    assert 4 * (frozen + 4 * trunk) < 21e9
    assert 3 * w_bytes < 30e6
    prefix_tokens = 3 * config.model.vision.tokens + config.model.max_prompt_tokens
    stack = config.model.language
    prefix_bytes = stack.depth * 2 * stack.kv_heads * stack.head_dim * prefix_tokens * 4
    assert prefix_bytes < 40e6
    assert config.stage1.slots_per_iteration % config.stage1.accumulate == 0


def test_full_size_configuration_asks_for_a_model() -> None:
    path = next(path for path in SHIPPED if path.stem == "pi05_alignment")
    with pytest.raises(ModelError, match="takes that of --init"):
        PretrainConfig.load(path)


def test_tiny_and_the_debug_configurations_ship() -> None:
    names = {path.stem for path in SHIPPED}
    assert {"tiny", "tiny_debug", "pi05_alignment_debug"} <= names
    path = next(path for path in SHIPPED if path.stem == "tiny")
    assert PretrainConfig.load(path).model == tiny_config()


def test_model_may_be_named_or_spelled_out(tmp_path: Path) -> None:
    named = write(tmp_path / "a.toml", 'name = "a"\nmodel = "dummy"\n')
    assert PretrainConfig.load(named).model == dummy_config()
    spelled = dummy_config("pi05").model_dump()
    assert PretrainConfig.load(write(named, 'name = "a"'), model=spelled).model.flavour == "pi05"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\nmodel = "dummy"\nthreds = 2\n', "threds"),
        ('name = "a"\nmodel = "dummy"\n[stage1]\nslot = 2\n', "stage1.slot: Extra"),
        ('name = "a"\nmodel = "dummy"\n[stage1.inner]\nlearning_rate = -1\n', "learning_rate"),
        ('name = "a"\nmodel = "huge"\n', "'huge' is not one of dummy, .*tiny"),
        ('name = "a"\n', "names no model"),
        ('name = "a"\nmodel = "dummy"\n[stage1]\nslots = 9\n', "24 must be at most slots 9"),
        ('name = "a"\nmodel = "dummy"\n[stage1]\naccumulate = 25\n', "25 must be at most"),
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
