"""An alignment step at pi0's real widths: on cached prefixes, and recomputing them with autograd.

Both take the same transitions and end with the same W. Recomputing means what a training loop does
that knows no cache: encode both frames and the prompt with gradients enabled, go on through the
experts, and propagate back to W; the frozen weights want no gradient themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from selfalign.align.aligner import Aligner, AlignmentConfig
from selfalign.align.batch import TransitionBatch
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.model.weights import FastWeights
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.full_model import full_geometry, random_model, timed

TRANSITIONS = 2
GOAL = 10.0


def measure(
    depth: int = 2, vision_depth: int = 1, cameras: int = 1, repeats: int = 2
) -> Iterator[Figure]:
    """`full_align_uncached_over_cached`."""
    torch.set_num_threads(1)
    policy = random_model(full_geometry(depth, vision_depth), gates=True)
    frames = random_frames(policy, cameras)
    with torch.no_grad():
        cached = transitions(policy, frames)
    aligner = Aligner(policy, AlignmentConfig(batch_size=TRANSITIONS))
    small = Aligner(policy, AlignmentConfig(micro_batch=1))
    start = aligner.start(policy.base_w())
    cached_ms, uncached_ms = [], []
    for _ in range(repeats):
        took_ms, one = timed(lambda: aligner.step(cached, start).w)
        cached_ms.append(took_ms)
        took_ms, other = timed(lambda: aligner.step(with_autograd(policy, frames), start).w)
        uncached_ms.append(took_ms)
    policy.set_gradient_checkpointing(True)
    checkpointed_ms, third = timed(lambda: aligner.step(cached, start).w)
    policy.set_gradient_checkpointing(False)
    micro = small.step(cached, start).w
    yield Figure(
        "full_align_uncached_over_cached",
        percentile(uncached_ms, 50) / percentile(cached_ms, 50),
        "ratio",
        goal=GOAL,
        better="higher",
        details={
            "cached_ms": rounded(percentile(cached_ms, 50)),
            "uncached_ms": rounded(percentile(uncached_ms, 50)),
            "checkpointed_ms": rounded(checkpointed_ms),
            "transitions": TRANSITIONS,
            "cameras": cameras,
            "depth": depth,
            "vision_depth": vision_depth,
            "w_difference": {
                "uncached": relative(other, one),
                "checkpointed": relative(third, one),
                "micro_batches": relative(micro, one),
            },
            "w_mb": rounded(size(one) / 1e6),
            "optimiser_mb": rounded((size(start.first) + size(start.second)) / 1e6),
        },
    )


def random_frames(policy: Policy, cameras: int) -> Tensor:
    """The first and the second frame of each transition [2 B, N, 3, S, S]."""
    generator = torch.Generator().manual_seed(0)
    side = policy.config.vision.image_size
    shape = (2 * TRANSITIONS, cameras, 3, side, side)
    return torch.rand(shape, generator=generator) * 2 - 1


def transitions(policy: Policy, frames: Tensor) -> TransitionBatch:
    """Transitions of random actions; both frames of each are encoded in one batch."""
    config, rng = policy.config, np.random.default_rng(1)
    tokens, mask = torch.full((len(frames), 2), 3), torch.ones(len(frames), 2, dtype=torch.bool)
    cameras = torch.ones(frames.shape[:2], dtype=torch.bool)
    both: Prefix = policy.prefix(frames, cameras, tokens, mask)
    now, following = torch.arange(len(frames)).chunk(2)
    state = rng.standard_normal((TRANSITIONS, config.state_dim)).astype(np.float32)
    actions = rng.standard_normal((TRANSITIONS, config.stride, config.action_dim))
    return TransitionBatch(
        both.index(now),
        both.only_features().index(following),
        torch.from_numpy(state),
        torch.from_numpy(actions.astype(np.float32)),
        torch.ones(TRANSITIONS, config.state_dim, dtype=torch.bool),
        torch.ones(TRANSITIONS, config.action_dim, dtype=torch.bool),
    )


def with_autograd(policy: Policy, frames: Tensor) -> TransitionBatch:
    """The transitions with a graph through the whole prefix."""
    with torch.enable_grad():
        return transitions(policy, frames.clone().requires_grad_())


def relative(one: FastWeights, other: FastWeights) -> float:
    """Length of the difference over the length."""
    return float(one.combine(other, torch.sub).norm() / other.norm())


def size(w: FastWeights) -> int:
    """Bytes."""
    return w.W1.nbytes + w.b1.nbytes
