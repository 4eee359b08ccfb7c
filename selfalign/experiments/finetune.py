"""The rival of W: the same alignment losses, but with weights of the policy itself as what moves.

W stays at W0. The prefix stays frozen, since alignment reads it from a cache; all that comes after
it may move, in full or by low-rank additions (LoRA, Hu et al. 2021, arXiv 2106.09685).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from selfalign.align.aligner import Aligner
from selfalign.align.batch import TransitionBatch
from selfalign.model.policy import Policy

_SEED = 0


def fine_tune(
    policy: Policy,
    train: TransitionBatch,
    aligner: Aligner,
    *,
    steps: int,
    learning_rate: float,
    rank: int | None = None,
) -> Policy:
    """A frozen copy of the policy after so many steps of Adam on the alignment losses.

    Args:
        policy: What to copy.
        train: Transitions of the robot's play.
        aligner: Whose losses and batch size are taken.
        steps: Steps to take, on the same draws as W would be aligned on.
        learning_rate: Of Adam.
        rank: Of the additions to every linear map of the action expert; None moves all weights of
            the action expert, the alignment expert and the heads.
    """
    tuned = copy.deepcopy(policy)
    tuned.requires_grad_(False)
    moving = _all_after_prefix(tuned) if rank is None else _low_rank(tuned.action, rank)
    optimiser = torch.optim.Adam(moving, lr=learning_rate)
    generator, base = torch.Generator().manual_seed(_SEED), policy.base_w()
    for _ in range(steps):
        rows = torch.randint(len(train), (aligner.config.batch_size,), generator=generator)
        optimiser.zero_grad()
        aligner.losses(tuned, train.index(rows), base).total.backward()
        optimiser.step()
    for module in list(tuned.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return tuned.freeze()


def _all_after_prefix(policy: Policy) -> list[nn.Parameter]:
    frozen = ("vision.", "language.", "embed_tokens.", "w0_")
    found = [p for name, p in policy.named_parameters() if not name.startswith(frozen)]
    for parameter in found:
        parameter.requires_grad_()
    return found


class _LowRank(nn.Module):
    """Adds up @ down to a weight [out, in]; nothing at the start."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out, wide = weight.shape
        self.down = nn.Parameter(torch.randn(rank, wide, generator=generator) * wide**-0.5)
        self.up = nn.Parameter(torch.zeros(out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def _low_rank(stack: nn.Module, rank: int) -> list[nn.Parameter]:
    generator, found = torch.Generator().manual_seed(_SEED), []
    for module in list(stack.modules()):
        if isinstance(module, nn.Linear):
            addition = _LowRank(module.weight, rank, generator)
            parametrize.register_parametrization(module, "weight", addition)
            found += [addition.down, addition.up]
    return found
