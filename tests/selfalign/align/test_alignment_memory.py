"""What a step of alignment touches: W and its two moments, nothing else of the model."""

import pytest
import torch

from selfalign.align.aligner import Aligner, AlignmentConfig
from selfalign.model.weights import FastWeights
from tests.fakes.models import random_policy, random_w
from tests.fakes.transitions import random_transitions


def relative(one: FastWeights, other: FastWeights) -> float:
    return float(one.combine(other, torch.sub).norm() / other.norm())


def size(w: FastWeights) -> int:
    return w.W1.nbytes + w.b1.nbytes


def test_gradient_reaches_w1_and_b1_only_even_of_a_model_that_wants_some() -> None:
    policy = random_policy()
    aligner, batch = Aligner(policy), random_transitions(policy)
    policy.requires_grad_(True)
    gradient, _ = aligner.gradient(batch, random_w(policy))
    assert gradient.W1.any()
    assert gradient.b1.any()
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_optimiser_memory_is_that_of_w() -> None:
    policy = random_policy()
    aligner, w = Aligner(policy), random_w(policy)
    state = aligner.step(random_transitions(policy), aligner.start(w))
    held = [value for value in vars(state).values() if isinstance(value, FastWeights)]
    assert sum(size(one) for one in held) == 3 * size(w)
    assert not [value for value in vars(aligner).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_w_after_micro_batches_is_the_w_of_one_batch(micro_batch: int) -> None:
    policy = random_policy()
    batch, w = random_transitions(policy, 6), random_w(policy)
    whole = Aligner(policy)
    parts = Aligner(policy, AlignmentConfig(micro_batch=micro_batch))
    expected = whole.step(batch, whole.start(w)).w
    assert relative(parts.step(batch, parts.start(w)).w, expected) < 1e-6


def test_gradient_checkpointing_gives_the_same_w() -> None:
    policy = random_policy()
    aligner, batch, w = Aligner(policy), random_transitions(policy), random_w(policy)
    plain = aligner.step(batch, aligner.start(w)).w
    policy.set_gradient_checkpointing(True)
    assert relative(aligner.step(batch, aligner.start(w)).w, plain) < 1e-6


def test_a_graph_through_the_prefix_gives_the_same_w_as_the_cached_prefix() -> None:
    policy = random_policy()
    aligner, batch, w = Aligner(policy), random_transitions(policy), random_w(policy)
    cached = aligner.step(batch, aligner.start(w)).w
    policy.requires_grad_(True)
    with torch.enable_grad():
        again = random_transitions(policy)
        assert again.now.key_values.requires_grad
        uncached = aligner.step(again, aligner.start(w)).w
    assert relative(uncached, cached) < 1e-6
