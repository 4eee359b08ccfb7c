"""Batches of transitions: choose, join, what dynamics predicts."""

import torch

from selfalign.align.batch import TransitionBatch
from tests.fakes.models import random_policy
from tests.fakes.transitions import random_transitions, tensors_of


def test_index_and_cat_are_inverse() -> None:
    batch = random_transitions(random_policy(), 4)
    parts = [batch.index(torch.tensor([0, 1])), batch.index(torch.tensor([2, 3]))]
    joined = TransitionBatch.cat(parts)
    assert [len(part) for part in parts] == [2, 2]
    assert len(joined) == 4
    for one, other in zip(tensors_of(joined), tensors_of(batch), strict=True):
        assert torch.equal(one, other)
    assert sum(part.nbytes for part in parts) == batch.nbytes


def test_index_may_repeat_and_reorder() -> None:
    batch = random_transitions(random_policy(), 3)
    chosen = batch.index(torch.tensor([2, 2, 0]))
    assert torch.equal(chosen.state[0], chosen.state[1])
    assert torch.equal(chosen.state[2], batch.state[0])
    assert torch.equal(chosen.now.key_values[1], batch.now.key_values[2])
    assert torch.equal(chosen.following.features[1], batch.following.features[2])


def test_of_the_following_observation_only_the_features_are_kept() -> None:
    batch = random_transitions(random_policy(), 3)
    kept = batch.following.features.nbytes + batch.following.feature_mask.nbytes
    assert batch.nbytes == batch.now.nbytes + kept


def test_feature_change_is_that_from_now_to_following() -> None:
    batch = random_transitions(random_policy(), 2)
    expected = batch.following.features - batch.now.features
    assert torch.equal(batch.feature_change, expected)
