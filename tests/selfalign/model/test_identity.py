"""The identity of a model is that of its file, and a large file is read for it once."""

import json
import os
from pathlib import Path

import pytest
import torch

from selfalign.errors import ModelError
from selfalign.model.checkpoint import load_policy, save_policy, shipped_model_dir
from selfalign.model.config import ModelConfig
from selfalign.model.identity import file_identity, identity_text
from selfalign.model.processing import NORM_STATS, Processing, Statistics
from selfalign.model.tensor_file import TensorFile
from tests.fakes.models import random_policy


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_policy(random_policy(), tmp_path)
    return tmp_path


def identity(directory: Path, large_bytes: int = 0) -> str:
    file = TensorFile(directory / "model.safetensors")
    return file_identity(file, ModelConfig.load(directory / "config.json"), large_bytes=large_bytes)


def test_identity_does_not_depend_on_the_precision_in_memory(directory: Path) -> None:
    whole, half = (load_policy(directory, dtype=d) for d in (None, torch.bfloat16))
    assert whole.dtype != half.dtype
    assert whole.base_sha256 == half.base_sha256 == random_policy().base_sha256


def test_small_model_has_nothing_put_beside_it(directory: Path) -> None:
    before = sorted(path.name for path in directory.iterdir())
    load_policy(directory)
    assert sorted(path.name for path in directory.iterdir()) == before


def test_large_file_is_read_once(directory: Path) -> None:
    found = identity(directory)
    told = json.loads((directory / "identity.json").read_text(encoding="utf-8"))
    assert told["base_sha256"] == found
    # Believed, as long as size and time are those of the file.
    told["base_sha256"] = "f" * 64
    (directory / "identity.json").write_text(json.dumps(told), encoding="utf-8")
    assert identity(directory) == "f" * 64
    assert identity(directory, large_bytes=2**40) == found


def test_changed_file_is_read_again(directory: Path) -> None:
    first = identity(directory)
    save_policy(random_policy(seed=1), directory)
    assert identity(directory) == random_policy(seed=1).base_sha256 != first


def test_touched_file_is_read_again(directory: Path) -> None:
    found = identity(directory)
    told = json.loads((directory / "identity.json").read_text(encoding="utf-8"))
    told["base_sha256"] = "f" * 64
    (directory / "identity.json").write_text(json.dumps(told), encoding="utf-8")
    os.utime(directory / "model.safetensors", ns=(1, 1))
    assert identity(directory) == found


def test_changed_configuration_is_another_model(directory: Path) -> None:
    found = identity(directory)
    path = directory / "config.json"
    changed = path.read_text(encoding="utf-8").replace('"flow_steps": 2', '"flow_steps": 3')
    path.write_text(changed, encoding="utf-8")
    assert identity(directory) != found


def normalised(spread: float) -> Processing:
    numbers = Statistics(method="z_score", mean=(0.0,), std=(spread,))
    return Processing(source="openpi", state=numbers, action=numbers)


def test_changed_normalisation_is_another_model(directory: Path) -> None:
    found = [load_policy(directory).base_sha256]
    for spread in (1.0, 2.0):
        normalised(spread).save(directory / NORM_STATS)
        policy = load_policy(directory)
        found.append(policy.base_sha256)
        # Computed from memory it is the same.
        assert policy.freeze().base_sha256 == found[-1]
    assert len(set(found)) == 3


def test_normalisation_written_otherwise_is_the_same_model(directory: Path) -> None:
    normalised(1.0).save(directory / NORM_STATS)
    found = load_policy(directory).base_sha256
    told = json.loads((directory / NORM_STATS).read_text(encoding="utf-8"))
    told |= {"delta_actions": None, "image_resize": "pil"}
    (directory / NORM_STATS).write_text(json.dumps(told), encoding="utf-8")
    assert load_policy(directory).base_sha256 == found


def test_note_of_a_large_file_is_not_believed_under_another_normalisation(directory: Path) -> None:
    file = TensorFile(directory / "model.safetensors")
    config = ModelConfig.load(directory / "config.json")
    found = [
        file_identity(file, config, processing, large_bytes=0)
        for processing in (None, normalised(1.0), normalised(2.0))
    ]
    assert len(set(found)) == 3


def test_without_normalisation_the_configuration_alone_counts() -> None:
    """The W of models made before norm_stats.json counted stay theirs."""
    config = ModelConfig.load(shipped_model_dir() / "config.json")
    assert identity_text(config, None) == config.identity()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"base_sha256": 3}', "\udcff"])
def test_broken_note_is_not_believed(directory: Path, text: str) -> None:
    found = identity(directory)
    (directory / "identity.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert identity(directory) == found


def test_directory_that_cannot_be_written_to_costs_only_time(directory: Path) -> None:
    (directory / "identity.json").mkdir()
    assert identity(directory) == random_policy().base_sha256


def test_not_a_number_in_w_is_found_too(directory: Path) -> None:
    policy = random_policy()
    policy.w0_b1[0, 0, 0, 0] = float("inf")
    save_policy(policy, directory)
    with pytest.raises(ModelError, match="w0_b1 holds NaN or infinity"):
        identity(directory)
    assert not (directory / "identity.json").exists()
