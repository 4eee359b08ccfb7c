"""Model directories: what is written is read, what is wrong is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model.checkpoint import load_policy, make_dummy_policy, save_policy
from selfalign.model.config import ModelConfig, dummy_config, tiny_config
from tests.fakes.models import random_numbers, random_policy, random_prefix

KEY = "action.layers.1.mlp.up_proj.weight"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_policy(random_policy(), tmp_path / "model")
    return tmp_path / "model"


def edit(directory: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_policy_survives_its_directory_bit_for_bit(directory: Path) -> None:
    written, read = random_policy(), load_policy(directory)
    assert read.base_sha256 == written.base_sha256
    assert torch.equal(read.base_w().W1, written.base_w().W1)
    state, noise = random_numbers(2, 32), random_numbers(2, 4, 32)
    chunks = [p.act(random_prefix(p, 2), state, p.base_w(), noise=noise) for p in (written, read)]
    assert torch.equal(*chunks)
    assert not any(p.requires_grad for p in read.parameters())


def test_policy_is_written_over_the_old_one(directory: Path) -> None:
    other = random_policy(seed=4)
    save_policy(other, directory)
    assert load_policy(directory).base_sha256 == other.base_sha256


def test_half_precision_leaves_w0_and_rotary_frequencies_in_float32(directory: Path) -> None:
    policy = load_policy(directory, dtype=torch.bfloat16)
    assert policy.dtype == torch.bfloat16
    assert policy.w0_W1.dtype == policy.w0_b1.dtype == torch.float32
    assert torch.equal(policy.w0_W1, random_policy().w0_W1)
    assert policy.action.rotary_emb.inv_freq.dtype == torch.float32
    norm = policy.get_parameter("action.layers.0.input_layernorm.weight")
    assert norm.dtype == policy.action_in_proj.weight.dtype == torch.float32


def test_policy_is_as_precise_as_its_file(directory: Path) -> None:
    edit(directory, lambda t: t.update({KEY: t[KEY].bfloat16()}))
    state = load_policy(directory).state_dict()
    assert state[KEY].dtype == torch.bfloat16
    assert {t.dtype for name, t in state.items() if name != KEY} == {torch.float32}
    assert load_policy(directory, dtype=torch.float32).state_dict()[KEY].dtype == torch.float32


def test_change_in_memory_leaves_the_file_alone(directory: Path) -> None:
    before = (directory / "model.safetensors").read_bytes()
    load_policy(directory).get_parameter(KEY).fill_(7)
    assert (directory / "model.safetensors").read_bytes() == before


def test_loaded_policy_survives_a_new_file_of_its_name(directory: Path) -> None:
    policy = load_policy(directory)
    save_policy(random_policy(seed=4), directory)
    assert torch.equal(policy.get_parameter(KEY), random_policy().get_parameter(KEY))


def test_no_tensor_of_a_loaded_policy_is_left_without_numbers(directory: Path) -> None:
    policy, made = load_policy(directory), random_policy()
    buffers = dict(made.named_buffers())
    for name, buffer in policy.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert not any(parameter.is_meta for parameter in policy.parameters())


def test_missing_key_is_named(directory: Path) -> None:
    edit(directory, lambda t: t.pop(KEY))
    with pytest.raises(ModelError, match=rf"missing keys \['{KEY}'\]"):
        load_policy(directory)


def test_unknown_key_is_named(directory: Path) -> None:
    edit(directory, lambda t: t.update({"lm_head.weight": torch.zeros(1)}))
    with pytest.raises(ModelError, match=r"unknown keys \['lm_head.weight'\]"):
        load_policy(directory)


def test_wrong_shape_is_named_with_both_shapes(directory: Path) -> None:
    edit(directory, lambda t: t.update({KEY: torch.zeros(32, 15)}))
    with pytest.raises(ModelError, match=rf"{KEY} is \(32, 15\), config.json asks for \(32, 16\)"):
        load_policy(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_number_is_named(directory: Path, value: float) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[KEY][3, 2] = value

    edit(directory, spoil)
    with pytest.raises(ModelError, match=f"{KEY} holds NaN or infinity"):
        load_policy(directory)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_are_refused(directory: Path, keep: int) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file"):
        load_policy(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(ModelError, match=f"{name} does not exist"):
        load_policy(directory)


def test_unknown_field_of_the_config_is_named(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["vision"]["pathc_size"] = 3
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="pathc_size"):
        load_policy(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_broken_config_is_refused(directory: Path, text: str) -> None:
    (directory / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match="not a model configuration"):
        load_policy(directory)


def test_dummy_policy_follows_its_seed_and_leaves_the_global_one_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (make_dummy_policy(seed) for seed in (1, 1, 2))
    assert one.base_sha256 == same.base_sha256 != other.base_sha256
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ttt": {"layers": (0, 2), "heads": 2}}, "ttt.layers"),
        ({"ttt": {"layers": (0, 0), "heads": 2}}, "ttt.layers"),
        ({"ttt": {"heads": 3}}, "no multiple of ttt.heads 3"),
        ({"language": {"depth": 3}}, "language.depth 3 and action.depth 2"),
        ({"alignment": {"width": 24}}, "alignment.width must equal"),
        ({"vision": {"image_size": 40}}, "image_size 40 is no multiple"),
    ],
)
def test_geometry_that_does_not_fit_is_refused(change: dict[str, dict], message: str) -> None:
    data = dummy_config().model_dump()
    for part, values in change.items():
        data[part] |= values
    with pytest.raises(ValueError, match=message):
        ModelConfig.model_validate(data)


def test_config_survives_its_file(tmp_path: Path) -> None:
    tiny_config().save(tmp_path / "config.json")
    assert ModelConfig.load(tmp_path / "config.json") == tiny_config()
