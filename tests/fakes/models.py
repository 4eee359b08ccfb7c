"""Small policies whose every weight is random, and inputs for them.

A fresh policy has gates and norms at zero that would hide a leak or a missing path; these have not.
"""

from typing import Any, Literal

import torch

from selfalign.model.checkpoint import make_dummy_policy
from selfalign.model.config import dummy_config
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.model.weights import FastWeights

PROMPTS = ("touch the red cube", "push the blue cube forward", "lift it", "")


def random_policy(
    flavour: Literal["pi0", "pi05"] = "pi0",
    seed: int = 0,
    *,
    inner_step: bool = False,
    **fields: Any,
) -> Policy:
    """A frozen dummy policy with all parameters drawn anew; `fields` replace the config's."""
    config = dummy_config(flavour)
    ttt = config.ttt.model_copy(update={"inner_step": inner_step})
    policy = make_dummy_policy(seed, config.model_copy(update={"ttt": ttt, **fields}))
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return policy.freeze()


def random_w(policy: Policy, groups: int | None = None, seed: int = 0) -> FastWeights:
    """A W (or `groups` of them) far enough from zero to matter."""
    generator = torch.Generator().manual_seed(seed)
    lead = () if groups is None else (groups,)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(*lead, *like.shape, generator=generator) * 0.5

    return policy.base_w().map(draw)


def random_images(batch: int, cameras: int, seed: int = 0) -> torch.Tensor:
    """Images [B, N, 3, 32, 32] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, cameras, 3, 32, 32, generator=generator) * 2 - 1


def random_prefix(policy: Policy, batch: int = 4, cameras: int = 2, seed: int = 0) -> Prefix:
    """The prefix of `batch` observations with different images and prompts."""
    tokens, mask = policy.prompts.encode([PROMPTS[i % len(PROMPTS)] for i in range(batch)])
    images = random_images(batch, cameras, seed)
    return policy.prefix(images, torch.ones(batch, cameras, dtype=torch.bool), tokens, mask)


def random_numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
