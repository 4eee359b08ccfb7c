"""Fine-tuning moves a copy by the alignment losses, and nothing else."""

import pytest
import torch

from selfalign.align.aligner import Aligner
from selfalign.experiments.finetune import fine_tune
from selfalign.model.policy import Policy
from tests.fakes.models import random_policy, random_prefix
from tests.fakes.transitions import random_transitions

FROZEN = ("vision.", "language.", "embed_tokens.", "w0_")


@pytest.mark.parametrize("rank", [None, 2], ids=["full", "lora"])
def test_fine_tuning_lowers_the_losses_of_a_copy(rank: int | None) -> None:
    policy = random_policy()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    aligner, batch = Aligner(policy), random_transitions(policy, 8)
    tuned = fine_tune(policy, batch, aligner, steps=5, learning_rate=1e-2, rank=rank)
    assert total(aligner, tuned, batch) < total(aligner, policy, batch)
    assert all(torch.equal(before[name], now) for name, now in policy.state_dict().items())
    moved = {name for name, now in tuned.state_dict().items() if not torch.equal(before[name], now)}
    assert moved
    assert not any(name.startswith(FROZEN) for name in moved)
    if rank is not None:
        assert all(name.startswith("action.") for name in moved)
        assert tuned.state_dict().keys() == before.keys()


def test_what_was_fine_tuned_is_what_acts() -> None:
    policy = random_policy()
    aligner, batch = Aligner(policy), random_transitions(policy, 8)
    tuned = fine_tune(policy, batch, aligner, steps=2, learning_rate=1e-2, rank=2)
    prefix = random_prefix(policy, 2)
    state, noise = torch.zeros(2, policy.config.state_dim), torch.zeros(2, 4, 32)
    with torch.no_grad():
        one, other = (p.act(prefix, state, p.base_w(), noise=noise) for p in (policy, tuned))
    assert not torch.allclose(one, other, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in tuned.parameters())


@torch.no_grad()
def total(aligner: Aligner, policy: Policy, batch) -> float:
    return float(aligner.losses(policy, batch, policy.base_w()).total)
