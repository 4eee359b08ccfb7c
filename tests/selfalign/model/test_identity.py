"""The identity of a model is that of its file, and a large file is read for it once."""

import json
import os
from pathlib import Path

import pytest
import torch

from selfalign.errors import ModelError
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.config import ModelConfig
from selfalign.model.identity import file_identity
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
