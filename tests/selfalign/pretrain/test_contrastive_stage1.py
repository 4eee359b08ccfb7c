"""The contrastive loss in stage 1: its views, whom it moves, and that it is off by default."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from selfalign.align.augment_appearance import AppearanceConfig
from selfalign.align.batch import TransitionBatch
from selfalign.data.recording import Recording
from selfalign.errors import ModelError
from selfalign.model.policy import Policy
from selfalign.pretrain.cache import PrefixCache, build_cache
from selfalign.pretrain.config import ContrastiveTrainingConfig, PretrainConfig, Stage1Config
from selfalign.pretrain.contrastive import StageOneContrast, contrast_of
from selfalign.pretrain.inner_loop import InnerLoop
from selfalign.pretrain.stage1_data import Stage1Data
from tests.fakes.models import random_w

N, K = 2, 3


def make_policy(config: PretrainConfig) -> Policy:
    torch.manual_seed(0)
    return Policy(config.model)


@pytest.fixture(scope="module")
def cache(recorded: Path, config: PretrainConfig) -> PrefixCache:
    return build_cache(make_policy(config).freeze(), Recording(recorded / "recording"))


@pytest.fixture
def data(recorded: Path, config: PretrainConfig, cache: PrefixCache) -> Stage1Data:
    return Stage1Data(make_policy(config), Recording(recorded / "recording"), cache, 1)


def settings_of(
    config: PretrainConfig, strength: float = 1.0, weight: float = 0.1, clip: float = 1e6
) -> Stage1Config:
    contrastive = ContrastiveTrainingConfig(
        slots=N,
        num_negative_samples=K,
        gradient_clip=clip,
        appearance=AppearanceConfig(strength=strength),
    )
    update = {"lambda_contrastive": weight, "contrastive": contrastive}
    return config.stage1.model_copy(update=update)


def views_of(
    data: Stage1Data, settings: Stage1Config, seed: int = 0
) -> tuple[TransitionBatch, TransitionBatch, TransitionBatch]:
    contrast = StageOneContrast(settings, 0, data.policy, data)
    embodiments = [data.draw(s, s, 0.0, settings) for s in (1, 2)]
    return contrast.views(embodiments, np.random.default_rng(seed))


def assert_same_but_for_looks(one: TransitionBatch, other: TransitionBatch) -> None:
    for name in ("state", "actions", "state_mask", "action_mask"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_positive_without_change_of_looks_is_the_anchor(
    data: Stage1Data, config: PretrainConfig
) -> None:
    anchor, positive, _ = views_of(data, settings_of(config, strength=0.0))
    assert_same_but_for_looks(anchor, positive)
    assert torch.equal(anchor.now.mask, positive.now.mask)
    # Encoded in another batch: the same to rounding of half floats.
    torch.testing.assert_close(positive.now.key_values, anchor.now.key_values, atol=2e-3, rtol=2e-3)
    for one, other in ((positive.now, anchor.now), (positive.following, anchor.following)):
        torch.testing.assert_close(one.features, other.features, atol=1e-4, rtol=1e-4)


def test_positive_is_the_same_play_in_other_looks(data: Stage1Data, config: PretrainConfig) -> None:
    anchor, positive, _ = views_of(data, settings_of(config))
    assert_same_but_for_looks(anchor, positive)
    for now, then in ((anchor.now, positive.now), (anchor.following, positive.following)):
        assert (now.features - then.features).abs().flatten(1).amax(1).min() > 1e-4
    assert not torch.equal(anchor.now.key_values, positive.now.key_values)


def test_negatives_are_the_same_sights_with_other_numbers(
    data: Stage1Data, config: PretrainConfig
) -> None:
    anchor, _, negatives = views_of(data, settings_of(config))
    m = config.stage1.transitions
    assert len(negatives) == K * len(anchor)
    for i in range(N):
        own = slice(i * m, (i + 1) * m)
        for j in range(K):
            start = (i * K + j) * m
            rows = slice(start, start + m)
            assert torch.equal(negatives.now.key_values[rows], anchor.now.key_values[own])
            assert torch.equal(negatives.state[rows], anchor.state[own])
            assert torch.isfinite(negatives.actions[rows]).all()
            assert (negatives.actions[rows] - anchor.actions[own]).abs().max() > 0.05
            # No gripper is predicted, and all negatives of one robot have its numbers.
            assert (negatives.action_mask[rows] == negatives.action_mask[start]).all()
            assert 2 <= int(negatives.action_mask[start].sum()) <= 8


def test_views_follow_the_seed(data: Stage1Data, config: PretrainConfig) -> None:
    one, same, other = (views_of(data, settings_of(config), seed) for seed in (1, 1, 2))
    for a, b in zip(one, same, strict=True):
        assert torch.equal(a.actions, b.actions)
        assert torch.equal(a.now.features, b.now.features)
    assert not torch.equal(one[0].state, other[0].state)


def test_gradient_reaches_trunk_and_w0_but_neither_delta_nor_prefix(
    data: Stage1Data, config: PretrainConfig
) -> None:
    settings = settings_of(config)
    policy = data.policy
    contrast = StageOneContrast(settings, 0, policy, data)
    embodiments = [data.draw(s, s, 0.0, settings) for s in (1, 2, 3)]
    delta = random_w(policy, 3).map(lambda t: t.requires_grad_())
    metrics = contrast.backward(embodiments, delta, 5)
    assert metrics["contrastive/loss"] > 0
    assert delta.W1.grad is None
    for parameter in (policy.w0_W1, policy.w0_b1, policy.state_proj.weight):
        assert parameter.grad is not None
        assert parameter.grad.any()
    frozen = ("vision.", "language.", "embed_tokens.")
    assert not any(
        p.grad is not None for name, p in policy.named_parameters() if name.startswith(frozen)
    )


def test_gradient_is_weighted_by_lambda(data: Stage1Data, config: PretrainConfig) -> None:
    gradients = []
    for weight in (0.1, 0.2):
        policy = data.policy
        policy.zero_grad()
        settings = settings_of(config, weight=weight)
        embodiments = [data.draw(s, s, 0.0, settings) for s in (1, 2)]
        StageOneContrast(settings, 0, policy, data).backward(embodiments, random_w(policy, 2), 5)
        assert policy.w0_W1.grad is not None
        gradients.append(policy.w0_W1.grad.clone())
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def test_gradient_is_clipped_by_itself_and_added(data: Stage1Data, config: PretrainConfig) -> None:
    policy = data.policy
    embodiments = [data.draw(s, s, 0.0, config.stage1) for s in (1, 2)]
    found = {}
    for clip in (1e6, 1e-3):
        for parameter in policy.parameters():
            parameter.grad = torch.ones_like(parameter)
        contrast = StageOneContrast(settings_of(config, clip=clip), 0, policy, data)
        metrics = contrast.backward(embodiments, random_w(policy, 2), 5)
        added = [p.grad - 1 for p in policy.parameters() if p.grad is not None]
        found[clip] = torch.stack([g.double().norm() for g in added]).norm()
        assert metrics["contrastive/gradient"] > 1e-3
        if clip > 1:
            expected = metrics["contrastive/gradient"]
            assert float(found[clip]) == pytest.approx(expected, rel=0.02)
    assert float(found[1e-3]) == pytest.approx(1e-3, rel=0.05)


def test_policy_keeps_its_attention_and_checkpointing(
    data: Stage1Data, config: PretrainConfig
) -> None:
    policy = data.policy
    policy.use_eager_attention(False)
    policy.set_gradient_checkpointing(True)
    settings = settings_of(config)
    embodiments = [data.draw(s, s, 0.0, settings) for s in (1, 2)]
    StageOneContrast(settings, 0, policy, data).backward(embodiments, random_w(policy, 2), 0)
    assert policy.action.gradient_checkpointing
    assert not policy.action._blocks()[0].eager


def trained(config: PretrainConfig, data: Stage1Data, settings: Stage1Config, steps: int = 2):
    torch.manual_seed(0)
    policy = Policy(config.model)
    data.policy = policy
    loop = InnerLoop(
        settings, config.seed, policy, data, extra=contrast_of(settings, config.seed, policy, data)
    )
    metrics = [loop.step(i) for i in range(steps)]
    loop.close()
    state: dict[str, Tensor] = loop.policy.state_dict() | loop.pool.state()
    return metrics, state


def test_off_by_default_and_then_no_part_of_training(
    data: Stage1Data, config: PretrainConfig
) -> None:
    assert Stage1Config().lambda_contrastive == 0.0
    assert contrast_of(config.stage1, 0, data.policy, data) is None
    metrics, off = trained(config, data, config.stage1)
    assert not any(name.startswith("contrastive") for name in metrics[0])
    # All other draws are those of a run with it: on with no weight to speak of changes nothing.
    shown, faint = trained(config, data, settings_of(config, weight=1e-30))
    assert shown[0]["contrastive/loss"] > 0
    for name, value in metrics[1].items():
        assert shown[1][name] == pytest.approx(value, rel=1e-5), name
    for name, tensor in off.items():
        torch.testing.assert_close(faint[name], tensor, msg=name)


def test_on_it_trains_and_the_same_seed_gives_the_same_result(
    data: Stage1Data, config: PretrainConfig
) -> None:
    settings = settings_of(config, weight=1.0)
    _, off = trained(config, data, config.stage1)
    (one_metrics, one), (_, same) = (trained(config, data, settings) for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["w0_W1"], off["w0_W1"])
    assert set(one_metrics[0]) >= {"contrastive/loss", "contrastive/accuracy", "action"}


def test_other_data_and_a_closed_gate_are_refused(data: Stage1Data, config: PretrainConfig) -> None:
    with pytest.raises(ModelError, match="only the simulator's recordings"):
        contrast_of(settings_of(config), 0, data.policy, object())  # type: ignore[arg-type]
    closed = settings_of(config).model_copy(update={"gate_closed": True})
    with pytest.raises(ModelError, match="gate_closed"):
        contrast_of(closed, 0, data.policy, data)
