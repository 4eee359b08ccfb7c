"""The vision tower's merging of patches, and the feature of a picture."""

import torch

from selfalign.model.config import dummy_config
from selfalign.model.vision import VisionTower, merge_patches
from tests.fakes.models import random_images


def test_squares_of_neighbouring_patches_are_joined() -> None:
    # 4 x 4 patches, numbered row by row, two numbers each.
    patches = torch.arange(16.0).repeat_interleave(2).reshape(1, 16, 2)
    merged = merge_patches(patches, 2)
    assert merged.shape == (1, 4, 8)
    squares = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert merged[0, :, ::2].tolist() == [[float(n) for n in square] for square in squares]


def test_merging_by_one_changes_nothing() -> None:
    patches = torch.rand(2, 9, 3)
    assert merge_patches(patches, 1) is patches


def test_tower_gives_tokens_and_features_of_the_declared_sizes() -> None:
    config = dummy_config().vision
    tower = VisionTower(config, prefix_width=20, feature_dim=6)
    tokens, features = tower(random_images(3, 1)[:, 0])
    assert tokens.shape == (3, config.tokens, 20)
    assert features.shape == (3, 6)


def test_images_of_a_batch_do_not_influence_one_another() -> None:
    tower = VisionTower(dummy_config().vision, prefix_width=20, feature_dim=6)
    images = random_images(3, 1)[:, 0]
    others = torch.cat([images[:1], random_images(2, 1, seed=9)[:, 0]])
    assert torch.equal(tower(images)[0][0], tower(others)[0][0])


def test_names_of_the_tower_are_those_of_published_checkpoints() -> None:
    names = VisionTower(dummy_config().vision, 20, 6).state_dict()
    assert any(name.endswith("embeddings.patch_embedding.weight") for name in names)
    assert any(name.endswith("encoder.layers.0.self_attn.q_proj.weight") for name in names)
