"""Training of vision and prefix: targets, prompts, units, and a run that is stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.pretrain.config import PrefixConfig, PretrainConfig
from selfalign.pretrain.prefix import (
    Frames,
    PrefixReadout,
    load_frames,
    losses,
    measure_spread,
    normalise_points,
    other_looks,
    prompts,
    train_prefix,
)


def make_policy(config: PretrainConfig) -> Policy:
    torch.manual_seed(0)
    return Policy(config.model)


def test_points_are_centred_scaled_and_clipped_far_outside() -> None:
    points = np.array([[0.5, 0.5, 1.1], [0.75, 0.25, 1.3], [99.0, -99.0, 1.1]], np.float32)
    expected = [[0, 0, 0], [1, -1, 1], [3, -3, 0]]
    np.testing.assert_allclose(normalise_points(points), expected, atol=1e-6)


def test_prompts_name_their_colour_or_are_empty() -> None:
    texts, colours = prompts(np.random.default_rng(0), 300)
    for text, colour in zip(texts, colours, strict=True):
        named = [name for name in ("red", "green", "blue") if name in text]
        assert named == ([] if colour < 0 else [("red", "green", "blue")[colour]])
        assert bool(text) == (colour >= 0)
    # Binomial with share 0.3: three standard errors of 300 draws are 0.08.
    assert float((colours < 0).mean()) == pytest.approx(0.3, abs=0.08)
    assert len({text.split()[0] for text in texts if text}) == 3


def test_target_is_the_cube_that_the_prompt_names(config: PretrainConfig) -> None:
    policy, points = make_policy(config), torch.randn(6, 9, 3)
    images = torch.zeros(6, 3, 96, 96)
    _, colours = prompts(np.random.default_rng(2), 6)
    assert (colours < 0).any()
    assert (colours >= 0).any()

    def perfect(_prefix: Prefix) -> tuple[Tensor, Tensor]:
        cube = points[torch.arange(6), 6 + torch.from_numpy(colours).clamp_min(0)]
        target = torch.stack([cube, cube - points[:, 0]], dim=1)
        # Nothing was asked, nothing is held against the answer.
        target[torch.from_numpy(colours < 0)] = 50.0
        return points, target

    parts = losses(policy, perfect, images, points, np.random.default_rng(2))
    assert float(parts["points"]) == 0
    assert float(parts["target"]) == 0
    assert float(parts["feature"].detach()) > 0


def test_readout_reads_the_prefix_through_keys_and_values(config: PretrainConfig) -> None:
    policy = make_policy(config).freeze()
    readout = PrefixReadout(policy, queries=3, keypoints=9)
    tokens, mask = policy.prompts.encode(["touch the red cube"])
    cameras = torch.ones(1, 1, dtype=torch.bool)
    one, other = (
        policy.prefix(torch.rand(1, 1, 3, 96, 96) * 2 - 1, cameras, tokens, mask) for _ in range(2)
    )
    points, target = readout(one)
    assert points.shape == (1, 9, 3)
    assert target.shape == (1, 2, 3)
    assert not torch.allclose(points, readout(other)[0])


def test_spread_is_how_far_points_move_within_a_transition(config: PretrainConfig) -> None:
    policy = make_policy(config)
    points = np.zeros((500, 9, 3), np.float32)
    points[:, 0, 0] = np.arange(500) * 0.7  # moves evenly; all others rest
    frames = Frames([(np.zeros((500, 1, 1, 3), np.uint8), points)])
    measure_spread(policy, frames, np.random.default_rng(0))
    spread = policy.vision.readout.spread
    assert float(spread[0]) == pytest.approx(0.7 * config.model.stride, rel=1e-3)
    torch.testing.assert_close(spread[1:], torch.full((26,), 0.1))


def test_frames_are_drawn_from_all_sources_by_their_size() -> None:
    sources = [
        (np.full((n, 96, 96, 3), n, np.uint8), np.full((n, 9, 3), n, np.float32)) for n in (30, 10)
    ]
    images, points = Frames(sources).sample(np.random.default_rng(0), 400)
    assert images.shape == (400, 3, 96, 96)
    from_first = (points[:, 0, 0] == 30).float()
    assert torch.equal(images[:, 0, 0, 0] > 15 / 127.5 - 1, from_first.bool())
    # Binomial with share 0.75: three standard errors are 0.065.
    assert float(from_first.mean()) == pytest.approx(0.75, abs=0.07)


def test_a_share_of_the_frames_is_seen_in_other_looks() -> None:
    images = torch.rand(8, 3, 24, 24) * 2 - 1
    seen = other_looks(images, PrefixConfig(appearance_share=0.5), np.random.default_rng(0))
    changed = (seen != images).flatten(1).any(1)
    assert int(changed.sum()) == 4
    assert not torch.equal(changed, torch.tensor([True] * 4 + [False] * 4))
    plain = other_looks(images, PrefixConfig(appearance_share=0), np.random.default_rng(0))
    assert torch.equal(plain, images)


def test_held_out_groups_are_not_seen(recorded: Path) -> None:
    every, train = (load_frames(recorded, held_out).sources[0][0] for held_out in (0, 1))
    assert len(train) < len(every)
    assert np.array_equal(train, every[: len(train)])


def test_stopped_training_goes_on_as_if_it_had_not_been(
    run_dir: Path, config: PretrainConfig, tmp_path: Path
) -> None:
    config = config.model_copy(
        update={"prefix": config.prefix.model_copy(update={"iterations": 4}), "checkpoint_every": 2}
    )
    whole = make_policy(config)
    other = tmp_path / "whole"
    other.mkdir()
    for name in ("recording", "frames"):
        (other / name).symlink_to(run_dir / name)
    train_prefix(config, other, whole)

    stopped, calls = make_policy(config), []

    def stop(*_: object) -> None:
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt

    stopped.vision.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        train_prefix(config, run_dir, stopped)
    resumed = make_policy(config)
    train_prefix(config, run_dir, resumed)

    for (name, one), (_, two) in zip(
        whole.named_parameters(), resumed.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    assert torch.equal(whole.vision.readout.spread, resumed.vision.readout.spread)
