"""Which weights of the trunk each optimiser has, and that Muon's steps are as long as AdamW's."""

import torch
from torch import nn
from torch.optim import Muon

from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.inner_loop import trunk_of
from selfalign.pretrain.optimisers import trunk_optimisers
from tests.fakes.models import random_policy

RATE = 1e-3


def names_of(trunk: nn.ParameterDict, optimiser: torch.optim.Optimizer) -> list[str]:
    names = {id(parameter): name for name, parameter in trunk.items()}
    return [names[id(p)] for group in optimiser.param_groups for p in group["params"]]


def test_muon_has_the_matrices_of_the_layers_and_adamw_all_else() -> None:
    trunk = trunk_of(random_policy())
    (alone,) = trunk_optimisers(trunk, Stage1Config())
    assert sorted(names_of(trunk, alone)) == sorted(trunk)

    rest, muon = trunk_optimisers(trunk, Stage1Config(optimiser="muon"))
    assert isinstance(muon, Muon)
    by_muon, by_adamw = names_of(trunk, muon), names_of(trunk, rest)
    assert sorted(by_muon + by_adamw) == sorted(trunk)
    for layer in ("action/layers/0", "alignment/expert/layers/0"):
        for part in ("self_attn/q_proj", "self_attn/o_proj", "mlp/up_proj", "mlp/down_proj"):
            assert f"{layer}/{part}/weight" in by_muon
    assert "action/layers/0/ttt/q_proj/weight" in by_muon
    for name in ("w0_W1", "action_in_proj/weight", "action_out_proj/weight", "alignment/queries"):
        assert name in by_adamw
    assert all(trunk[name].ndim == 2 for name in by_muon)


def test_a_step_of_muon_is_as_long_as_one_of_adamw() -> None:
    """Root mean square of a weight's move: 0.2 of the rate, which is what AdamW's settles at."""
    trunk = trunk_of(random_policy())
    settings = Stage1Config(optimiser="muon", learning_rate=RATE, weight_decay=0)
    _, muon = trunk_optimisers(trunk, settings)
    generator = torch.Generator().manual_seed(0)
    for name in names_of(trunk, muon):
        trunk[name].grad = torch.randn(trunk[name].shape, generator=generator)
    before = {name: p.detach().clone() for name, p in trunk.items()}
    muon.step()
    for name in names_of(trunk, muon):
        move = float((trunk[name].detach() - before[name]).square().mean().sqrt())
        # Newton and Schulz leave singular values between 0.7 and 1.2.
        assert 0.12 * RATE < move < 0.28 * RATE, name
