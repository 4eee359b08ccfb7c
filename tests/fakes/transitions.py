"""Transitions without a robot: random prefixes, states and actions for the alignment losses."""

import torch

from selfalign.align.batch import TransitionBatch
from selfalign.model.policy import Policy
from tests.fakes.models import random_numbers, random_prefix

STATE_NUMBERS, ACTION_NUMBERS = 5, 4


def random_transitions(policy: Policy, count: int = 4, seed: int = 0) -> TransitionBatch:
    """Transitions of a robot with five state and four action numbers."""
    config = policy.config
    state_mask = torch.arange(config.state_dim) < STATE_NUMBERS
    action_mask = torch.arange(config.action_dim) < ACTION_NUMBERS
    actions = random_numbers(count, config.stride, config.action_dim, seed=seed + 3)
    return TransitionBatch(
        now=random_prefix(policy, count, seed=seed + 1),
        following=random_prefix(policy, count, seed=seed + 2).only_features(),
        state=random_numbers(count, config.state_dim, seed=seed + 4) * state_mask,
        actions=actions * action_mask,
        state_mask=state_mask.expand(count, -1),
        action_mask=action_mask.expand(count, -1),
    )


def tensors_of(batch: TransitionBatch) -> list[torch.Tensor]:
    """Every tensor of a batch, copied."""
    prefixes = [
        batch.now.key_values,
        batch.now.mask,
        *(t for p in (batch.now, batch.following) for t in (p.features, p.feature_mask)),
    ]
    others = [batch.state, batch.actions, batch.state_mask, batch.action_mask]
    return [t.clone() for t in (*prefixes, *others)]
