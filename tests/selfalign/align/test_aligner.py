"""Stage 2: Adam on W alone, a plain function of its inputs."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from selfalign.align.aligner import Aligner, AlignmentConfig, AlignState, adam_step
from selfalign.align.batch import TransitionBatch
from selfalign.model.weights import FastWeights
from tests.fakes.models import random_numbers, random_policy, random_w
from tests.fakes.transitions import random_transitions, tensors_of


def run(aligner: Aligner, batch: TransitionBatch, w: FastWeights, steps: int) -> AlignState:
    state = aligner.start(w)
    for _ in range(steps):
        state = aligner.step(batch, state)
    return state


def make_gradient(seed: int, *lead: int) -> FastWeights:
    return FastWeights(
        random_numbers(*lead, 2, 3, 4, 4, seed=seed),
        random_numbers(*lead, 2, 3, 1, 4, seed=seed + 100),
        (0, 1),
    )


def torch_adam(start: FastWeights, gradients: list[FastWeights], config: AlignmentConfig) -> Tensor:
    """W1 after torch's own Adam."""
    parameters = [torch.nn.Parameter(start.W1.clone()), torch.nn.Parameter(start.b1.clone())]
    optimiser = torch.optim.Adam(
        parameters, config.learning_rate, (config.beta1, config.beta2), config.epsilon
    )
    for gradient in gradients:
        parameters[0].grad, parameters[1].grad = gradient.W1, gradient.b1
        optimiser.step()
    return torch.cat([p.detach().flatten() for p in parameters])


def ours(w: FastWeights) -> Tensor:
    return torch.cat([w.W1.flatten(), w.b1.flatten()])


def test_adam_step_equals_torch() -> None:
    config = AlignmentConfig(learning_rate=0.05, beta1=0.8, beta2=0.95, epsilon=1e-5)
    gradients = [make_gradient(seed) for seed in range(12)]
    w = start = make_gradient(50)
    first = second = w.map(torch.zeros_like)
    for step, gradient in enumerate(gradients, start=1):
        w, first, second = adam_step(w, gradient, first, second, step, config)
    torch.testing.assert_close(ours(w), torch_adam(start, gradients, config), rtol=1e-5, atol=1e-6)


def test_adam_step_knows_the_age_of_each_member() -> None:
    config = AlignmentConfig()
    lives = [[make_gradient(seed) for seed in range(3)], [make_gradient(9)]]
    starts = [make_gradient(50), make_gradient(51)]
    # Member 0 has taken two steps before member 1 is born; then both take one step together.
    old, first, second = starts[0], *([starts[0].map(torch.zeros_like)] * 2)
    for step in (1, 2):
        old, first, second = adam_step(old, lives[0][step - 1], first, second, step, config)
    zero = starts[1].map(torch.zeros_like)

    w, _, _ = adam_step(
        FastWeights.stack([old, starts[1]]),
        FastWeights.stack([lives[0][2], lives[1][0]]),
        FastWeights.stack([first, zero]),
        FastWeights.stack([second, zero]),
        torch.tensor([3.0, 1.0]),
        config,
    )

    for member in range(2):
        expected = torch_adam(starts[member], lives[member], config)
        got = ours(w.select(torch.tensor(member)))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_step_changes_neither_batch_nor_state_nor_the_frozen_model() -> None:
    policy = random_policy()
    aligner, batch = Aligner(policy), random_transitions(policy)
    base, before = policy.base_sha256, tensors_of(batch)
    state = aligner.step(batch, aligner.start(random_w(policy)))
    parts = (state.w, state.first, state.second)
    kept = [(w.W1.clone(), w.b1.clone()) for w in parts]

    run(aligner, batch, state.w, 3)
    following = aligner.step(batch, state)

    assert policy.freeze().base_sha256 == base
    for tensor, old in zip(tensors_of(batch), before, strict=True):
        assert torch.equal(tensor, old)
    for w, (W1, b1) in zip(parts, kept, strict=True):
        assert torch.equal(w.W1, W1)
        assert torch.equal(w.b1, b1)
    assert (state.step, following.step) == (1, 2)
    assert not torch.equal(following.w.W1, state.w.W1)


def test_start_does_not_share_memory_with_the_given_w() -> None:
    policy = random_policy()
    w = random_w(policy)
    state = Aligner(policy).start(w)
    w.W1.zero_()
    assert state.w.W1.any()
    assert not state.first.W1.any()


def test_first_step_moves_every_number_by_the_learning_rate_against_the_gradient() -> None:
    policy = random_policy()
    aligner, batch = Aligner(policy, AlignmentConfig(epsilon=1e-12)), random_transitions(policy)
    w = random_w(policy)
    gradient, _ = aligner.gradient(batch, w)
    moved = aligner.step(batch, aligner.start(w)).w.W1 - w.W1
    torch.testing.assert_close(moved, -0.02 * gradient.W1.sign(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_loss_falls_when_some_w_explains_the_transitions(flavour: Literal["pi0", "pi05"]) -> None:
    policy = random_policy(flavour)
    batch, teacher = random_transitions(policy, 8), random_w(policy)
    seen = policy.alignment_pass(batch.now, batch.following, batch.state, batch.actions, teacher)
    batch = replace(batch, actions=seen.actions)
    astray = teacher.combine(random_w(policy, seed=5), lambda w, noise: w + 0.3 * noise)
    aligner = Aligner(policy, AlignmentConfig(lambda_perception=0, lambda_dynamics=0))
    first = run(aligner, batch, astray, 1).metrics["alignment/inverse_dynamics"]
    last = run(aligner, batch, astray, 40).metrics["alignment/inverse_dynamics"]
    assert last < 0.3 * first


def test_alignment_is_deterministic() -> None:
    policy = random_policy()
    aligner, batch = Aligner(policy), random_transitions(policy)
    one, other = (run(aligner, batch, random_w(policy), 5) for _ in range(2))
    assert torch.equal(one.w.W1, other.w.W1)
    assert torch.equal(one.w.b1, other.w.b1)
    assert one.metrics == other.metrics


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 100])
def test_accumulated_micro_batches_equal_one_batch(micro_batch: int) -> None:
    policy = random_policy()
    batch, w = random_transitions(policy, 7), random_w(policy)
    whole, metrics = Aligner(policy).gradient(batch, w)
    config = AlignmentConfig(micro_batch=micro_batch)
    parts, part_metrics = Aligner(policy, config).gradient(batch, w)
    torch.testing.assert_close(parts.W1, whole.W1, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.b1, whole.b1, rtol=1e-4, atol=1e-5)
    assert part_metrics == pytest.approx(metrics, rel=1e-4)


def test_aligning_many_w_at_once_equals_aligning_each_alone() -> None:
    policy = random_policy()
    aligner, batch, w = Aligner(policy), random_transitions(policy, 6), random_w(policy, 2)
    together = run(aligner, batch, w, 3).w
    for group, rows in enumerate(([0, 1, 2], [3, 4, 5])):
        member = torch.tensor(group)
        alone = run(aligner, batch.index(torch.tensor(rows)), w.select(member), 3).w
        torch.testing.assert_close(together.select(member).W1, alone.W1, rtol=1e-3, atol=1e-4)


def test_gradient_is_found_under_no_grad_and_leaves_w_without_one() -> None:
    policy = random_policy()
    aligner, batch = Aligner(policy), random_transitions(policy)
    with torch.no_grad():
        state = aligner.step(batch, aligner.start(random_w(policy)))
    assert not state.w.W1.requires_grad
    assert state.w.W1.is_leaf


def test_targets_that_are_not_finite_show_in_metrics_and_w() -> None:
    policy = random_policy()
    batch = random_transitions(policy)
    broken = replace(batch, actions=batch.actions * float("nan"))
    state = run(Aligner(policy), broken, random_w(policy), 1)
    assert (
        state.metrics["alignment/inverse_dynamics"] != state.metrics["alignment/inverse_dynamics"]
    )
    assert not torch.isfinite(state.w.W1).all()


@pytest.mark.parametrize(
    "field", [{"learning_rate": 0}, {"beta1": 1}, {"batch_size": 0}, {"steps": 0}, {"momentum": 1}]
)
def test_bad_settings_are_refused_by_name(field: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(field))):
        AlignmentConfig(**field)
