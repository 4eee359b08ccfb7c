"""The pool of the persistent inner loop, with embodiments that are only their seeds."""

from typing import Any

import numpy as np
import torch

from selfalign.model.weights import FastWeights
from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.pool import Pool
from tests.fakes.models import random_numbers

W0 = FastWeights(torch.full((2, 3, 4, 4), 9.0), torch.full((2, 3, 1, 4), 9.0), (0, 1))


def make_pool(seed: int = 0, **fields: Any) -> Pool:
    config = Stage1Config(**{"slots": 5, "slots_per_iteration": 2, "lifetime": 1e6} | fields)
    draw: Any = lambda *seeds_and_share: seeds_and_share  # noqa: E731
    return Pool(config, W0, draw, np.random.default_rng(seed))


def gradient(slots: int, seed: int = 0) -> FastWeights:
    return FastWeights(
        random_numbers(slots, 2, 3, 4, 4, seed=seed),
        random_numbers(slots, 2, 3, 1, 4, seed=seed + 50),
        (0, 1),
    )


def live(pool: Pool, iterations: range) -> list[list[int]]:
    """Visit slots as stage 1 does; returns which were visited."""
    visited = []
    for iteration in iterations:
        slots = pool.choose()
        pool.apply(pool.visit(slots, 1 / (2 + iteration)), gradient(len(slots), iteration))
        visited.append(slots.tolist())
    return visited


def test_fresh_pool_has_no_delta_and_an_embodiment_in_every_slot() -> None:
    pool = make_pool()
    assert not pool.delta.W1.any()
    assert pool.delta.W1.shape == (5, 2, 3, 4, 4)
    assert len({seed for seed, _, _ in pool.embodiments}) == 5
    assert all(share == pool.config.canonical_start for _, _, share in pool.embodiments)


def test_chosen_slots_are_distinct_and_in_order() -> None:
    pool = make_pool(slots_per_iteration=4)
    for _ in range(20):
        slots = pool.choose().tolist()
        assert slots == sorted(set(slots))
        assert len(slots) == 4


def test_only_visited_slots_move_and_age() -> None:
    pool = make_pool()
    pool.apply(pool.visit(torch.tensor([1, 3]), 0.5), gradient(2))
    moved = pool.delta.W1.flatten(1).abs().amax(1)
    assert (moved > 0).tolist() == [False, True, False, True, False]
    assert pool.age.tolist() == [0, 1, 0, 1, 0]


def test_each_slot_takes_the_adam_steps_of_its_own_life() -> None:
    pool = make_pool()
    visits = [[0, 1], [1, 2], [1, 4], [0, 1]]
    for number, slots in enumerate(visits):
        pool.apply(pool.visit(torch.tensor(slots), 0.5), gradient(2, number))
    for slot in (0, 1):
        parameter = torch.nn.Parameter(torch.zeros(2, 3, 4, 4))
        inner = pool.config.inner
        optimiser = torch.optim.Adam(
            [parameter], inner.learning_rate, (inner.beta1, inner.beta2), inner.epsilon
        )
        for number, slots in enumerate(visits):
            if slot in slots:
                parameter.grad = gradient(2, number).W1[slots.index(slot)]
                optimiser.step()
        torch.testing.assert_close(pool.delta.W1[slot], parameter.detach(), rtol=1e-5, atol=1e-6)


def test_slot_starts_anew_when_its_life_is_over() -> None:
    pool = make_pool()
    pool.lifetime[2] = 2.5
    old = pool.embodiments[2]
    for _ in range(2):
        pool.apply(pool.visit(torch.tensor([2, 3]), 0.25), gradient(2))
    assert pool.embodiments[2] == old
    pool.apply(pool.visit(torch.tensor([2, 3]), 0.25), gradient(2))
    assert pool.embodiments[2] != old
    assert pool.embodiments[2][2] == 0.25
    assert pool.age.tolist() == [0, 0, 0, 3, 0]
    for part in (pool.delta, pool.first, pool.second):
        assert not part.W1[2].any()
        assert not part.b1[2].any()
        assert part.W1[3].any()


def test_slots_share_groups_but_not_spaces() -> None:
    shared = make_pool(slots=400, shared_groups=0.8).embodiments
    alone = make_pool(slots=400, shared_groups=0.0).embodiments
    assert len({space for space, _, _ in shared}) == 400
    assert len({group for _, group, _ in alone}) == 400
    # At first most slots find nobody to share with; fewer than half of the groups are left.
    assert 40 < len({group for _, group, _ in shared}) < 250


def test_groups_do_not_die_out() -> None:
    pool = make_pool(slots=100, slots_per_iteration=100, lifetime=1.01, shared_groups=0.8)
    live(pool, range(60))
    # Renewed some 30 times over: a fifth of the draws bring new groups in.
    assert len({group for _, group, _ in pool.embodiments}) > 15


def test_lifetimes_have_the_mean_that_was_asked_for() -> None:
    pool = make_pool(slots=2000, lifetime=50.0)
    # Exponential with mean 50: three standard errors of 2000 draws are 3.4.
    assert abs(float(pool.lifetime.mean()) - 51) < 3.5
    assert float(pool.lifetime.min()) >= 1


def test_restored_pool_goes_on_exactly_as_the_one_that_was_saved() -> None:
    saved, restored = make_pool(seed=0, lifetime=3.0), make_pool(seed=1, lifetime=3.0)
    live(saved, range(15))
    state = {name: tensor.clone() for name, tensor in saved.state().items()}

    restored.restore(state)

    assert restored.embodiments == saved.embodiments
    assert live(restored, range(15, 40)) == live(saved, range(15, 40))
    assert restored.embodiments == saved.embodiments
    for name, tensor in saved.state().items():
        assert torch.equal(restored.state()[name], tensor), name


def test_state_without_a_generator_is_restored_too() -> None:
    saved, restored = make_pool(seed=0), make_pool(seed=1)
    live(saved, range(5))
    state = saved.state()
    del state["rng"]
    restored.restore(state)
    assert torch.equal(restored.delta.W1, saved.delta.W1)
    live(restored, range(5))
