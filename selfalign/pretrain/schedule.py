"""Learning rates over a run."""

import math

from torch.optim import Optimizer


def one_cycle(optimiser: Optimizer, peak: float, progress: float, warmup: float) -> float:
    """Linear warm-up, then a cosine to zero. `progress` is in [0, 1). Sets and returns the rate."""
    if progress < warmup:
        rate = peak * (progress + 1e-3) / warmup
    else:
        rate = peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate
