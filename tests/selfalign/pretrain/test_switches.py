"""Switches of stage 1 that ablations and baselines need."""

from pathlib import Path

import numpy as np
import torch

from selfalign.model.weights import FastWeights
from selfalign.pretrain.config import PretrainConfig, Stage1Config
from selfalign.pretrain.inner_loop import InnerLoop
from selfalign.pretrain.pool import Pool
from selfalign.pretrain.trainer import open_data, prefix_policy
from tests.fakes.models import random_numbers

W0 = FastWeights(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 1, 4), (0,))


def drawn(embodiments: int | None) -> set[tuple[int, int]]:
    """Seeds of every embodiment of a pool in which each lives for a visit or two."""
    config = Stage1Config(
        slots=6, slots_per_iteration=6, lifetime=1.01, embodiments=embodiments, shared_groups=0.0
    )
    pool = Pool[tuple[int, int]](
        config, W0, lambda seed, group, canonical: (seed, group), np.random.default_rng(0)
    )
    found = set(pool.embodiments)
    for _ in range(30):
        slots = pool.choose()
        zero = FastWeights.stack([W0.map(torch.zeros_like)] * len(slots))
        pool.apply(pool.visit(slots, 0.5), zero)
        found |= set(pool.embodiments)
    return found


def test_few_embodiments_come_again_and_each_has_a_group_of_its_own() -> None:
    found = drawn(4)
    assert len(found) == 4
    assert len({group for _, group in found}) == 4
    assert len(drawn(None)) > 20


def test_without_w_the_gate_stays_closed_and_no_w_changes_a_chunk(
    run_dir: Path, config: PretrainConfig
) -> None:
    inner = config.stage1.inner.model_copy(
        update={f"lambda_{n}": 0.0 for n in ("perception", "inverse_dynamics", "dynamics")}
    )
    stage1 = config.stage1.model_copy(update={"gate_closed": True, "inner": inner})
    policy = prefix_policy(config, run_dir)
    loop = InnerLoop(stage1, 0, policy, open_data(config, run_dir, policy))
    before = policy.action.layers[0].self_attn.q_proj.weight.detach().clone()
    for iteration in range(3):
        loop.step(iteration)
    gates = [p for name, p in policy.named_parameters() if name.endswith(".ttt.gate")]
    assert gates
    assert not any(gate.any() for gate in gates)
    assert not torch.equal(policy.action.layers[0].self_attn.q_proj.weight, before)
    assert not loop.pool.delta.W1.any()
    prefix, state, chunk, _ = loop._data.demonstrations(loop.pool.embodiments[:1], rng(), 2)
    noise = random_numbers(*chunk.shape)
    with torch.no_grad():
        other = policy.base_w().map(lambda tensor: tensor + 1)
        acted = [policy.act(prefix, state, w, noise=noise) for w in (policy.base_w(), other)]
    assert torch.equal(*acted)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)
