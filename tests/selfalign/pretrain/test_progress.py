"""Journal and resumable state."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from selfalign.pretrain.progress import Journal, load_state, read_metadata, save_state, save_tensors


def train(module: nn.Linear, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimiser.zero_grad()
        module(torch.full((1, 3), float(step))).square().sum().backward()
        optimiser.step()


def make(seed: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    return module, torch.optim.AdamW(module.parameters(), 0.1, weight_decay=0.2)


def test_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, optimiser = make(0)
    train(whole, optimiser, range(6))
    first, optimiser = make(0)
    train(first, optimiser, range(4))
    save_state(tmp_path / "state", first, [optimiser], 4, {"note": torch.tensor([7])})

    second, optimiser = make(1)
    start, extra = load_state(tmp_path / "state", second, [optimiser])
    train(second, optimiser, range(start, 6))

    assert start == 4
    assert extra["note"].tolist() == [7]
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(second.bias, whole.bias)


def test_without_a_file_training_starts_at_zero(tmp_path: Path) -> None:
    module, optimiser = make(0)
    weight = module.weight.detach().clone()
    assert load_state(tmp_path / "state", module, [optimiser]) == (0, {})
    assert torch.equal(module.weight, weight)


def test_state_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    module, optimiser = make(0)
    for iteration in (1, 2):
        save_state(tmp_path / "state", module, [optimiser], iteration)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
    assert read_metadata(tmp_path / "state.safetensors") == {"iteration": "2"}


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save_tensors(tmp_path / "t", {"whole": whole, "part": whole[2:4]}, {})
    assert (tmp_path / "t.safetensors").exists()


def test_journal_writes_means_of_every_few_iterations(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with Journal(path, "stage1", total=4, start=0, every=2) as journal:
        for iteration, loss in enumerate((1.0, 3.0, 5.0)):
            journal.add(iteration, {"loss": loss})
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 1
    assert lines[0]["phase"] == "stage1"
    assert lines[0]["iteration"] == 2
    assert lines[0]["loss"] == pytest.approx(2.0)


def test_journal_of_a_resumed_run_goes_on(tmp_path: Path) -> None:
    for start in (0, 1):
        with Journal(tmp_path / "log.jsonl", "p", total=2, start=start, every=1) as journal:
            journal.add(start, {"loss": 0.5})
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2]
