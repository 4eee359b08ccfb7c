"""How well stage 2 would work now: alignment on held-out embodiments, without roll-outs.

Shape key: n embodiments, A action numbers, H horizon.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from selfalign.align.aligner import Aligner
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights
from selfalign.pretrain.batches import moved
from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.stage1_data import E, TrainingData

_CHUNKS = 32


@final
@dataclass(frozen=True)
class HeldOutError:
    """After so many steps: alignment losses on play that W was not aligned on, and the action error
    as a share of the variance.
    """

    steps: int
    metrics: dict[str, float]
    action_error: float


def adaptation_curve(
    policy: Policy,
    data: TrainingData[E],
    embodiments: list[E],
    config: Stage1Config,
    checkpoints: tuple[int, ...] = (0, 10, 50),
) -> list[HeldOutError]:
    """Align all embodiments at once, each with a W of its own, and measure on the way."""
    rng = np.random.default_rng(5)
    aligner = Aligner(policy, config.inner)
    state = aligner.start(FastWeights.stack([policy.base_w()] * len(embodiments)))
    out: list[HeldOutError] = []
    for step in range(max(checkpoints) + 1):
        if step in checkpoints:
            out.append(_measure(policy, data, embodiments, state.w, aligner, step))
        if step < max(checkpoints):
            batch = data.transitions(embodiments, rng, 32, "support")
            state = aligner.step(moved(batch, policy.device), state)
    return out


@torch.no_grad()
def _measure(
    policy: Policy,
    data: TrainingData[E],
    embodiments: list[E],
    w: FastWeights,
    aligner: Aligner,
    step: int,
) -> HeldOutError:
    rng = np.random.default_rng(6)
    device = policy.device
    batch = data.transitions(embodiments, rng, 32, "query")
    report = aligner.losses(policy, moved(batch, device), w)
    prefix, *rest = data.demonstrations(embodiments, rng, _CHUNKS)
    state, chunk, mask = (tensor.to(device) for tensor in rest)
    noise = torch.randn(chunk.shape, generator=torch.Generator().manual_seed(0)).to(device)
    predicted = policy.act(prefix.to(device), state, w, noise=noise)
    weight = mask[:, None].float().expand_as(chunk)
    error = ((predicted - chunk).square() * weight).sum() / weight.sum()
    mean = (chunk * weight).sum((0, 1)) / weight.sum((0, 1)).clamp_min(1)
    variance = ((chunk - mean).square() * weight).sum() / weight.sum()
    return HeldOutError(step, report.metrics, float(error / variance))
