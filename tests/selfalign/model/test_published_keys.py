"""Full-size pi0 and pi0.5 have the names, shapes and sizes that openpi publishes."""

import functools
import math

import pytest
import torch

from selfalign.errors import ModelError
from selfalign.model import keys
from selfalign.model.checkpoint import empty_policy
from selfalign.model.config import ModelConfig, gemma_variant, pi0_config, pi05_config
from selfalign.model.gemma import GemmaStack
from selfalign.model.policy import Policy
from tests.fakes.published import EMBED, EXPERT_HEAD, LM_HEAD, ROOT, numbers, published_shapes

FLAVOURS = {"pi0": pi0_config, "pi05": pi05_config}


def config_of(flavour: str) -> ModelConfig:
    return FLAVOURS[flavour]()


@functools.cache
def full_policy(flavour: str) -> Policy:
    return empty_policy(config_of(flavour))


# The file lacks one key of the state_dict, the tied embedding: 778 and 813 there.
@pytest.mark.parametrize(
    ("flavour", "count", "total"), [("pi0", 777, 3_501_372_176), ("pi05", 812, 3_616_757_520)]
)
def test_table_has_the_published_counts(flavour: str, count: int, total: int) -> None:
    shapes = published_shapes(config_of(flavour))
    assert len(shapes) == count
    assert numbers(shapes) == total


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_published_key_is_exactly_one_of_our_tensors(flavour: str) -> None:
    config = config_of(flavour)
    shapes = published_shapes(config)
    del shapes[EXPERT_HEAD]
    ours = {k: tuple(t.shape) for k, t in full_policy(flavour).state_dict().items()}
    mapped = {keys.our_name(key): shape for key, shape in shapes.items()}
    assert len(mapped) == len(shapes)
    assert mapped == {k: s for k, s in ours.items() if not keys.is_added(k, config.flavour)}


def test_parts_of_full_size_models_have_the_published_numbers() -> None:
    pi0, pi05 = (full_policy(f).num_parameters() for f in FLAVOURS)
    projector = 2048 * 1152 + 2048
    assert round((pi0["vision"] - projector) / 1e6, 1) == 412.4
    assert round(projector / 1e6, 1) == 2.4
    assert round(pi0["language"] / 1e6, 1) == 2508.5
    assert round(pi0["action"] / 1e6, 1) == 311.5
    assert round(pi05["action"] / 1e6, 1) == 427.9
    assert pi0["w"] == pi05["w"] == 2_377_728
    assert round(pi0["ttt"] / 1e6, 1) == round(pi05["ttt"] / 1e6, 1) == 37.8
    assert pi0["vision"] == pi05["vision"]
    assert pi0["language"] == pi05["language"]


@pytest.mark.parametrize("depth", [4, 6, 8, 18])
def test_alignment_expert_has_the_depth_that_was_asked_for(depth: int) -> None:
    config = pi0_config(alignment_depth=depth)
    with torch.device("meta"):
        count = sum(p.numel() for p in GemmaStack(config.alignment).parameters())
    expert = gemma_variant("gemma_300m")
    block = 2 * 2048 * 1024 + 2 * 256 * 1024 + 3 * 1024 * expert.mlp_dim + 2 * 1024
    assert count == depth * block + 1024
    if depth == 18:
        assert count == full_policy("pi0").num_parameters()["action"]


def test_less_depth_keeps_the_widths() -> None:
    config = pi05_config(depth=2, vision_depth=3, alignment_depth=1)
    assert (config.language.depth, config.action.depth, config.vision.depth) == (2, 2, 3)
    full = pi05_config()
    assert config.language.width == full.language.width
    assert config.action.model_dump(exclude={"depth"}) == full.action.model_dump(exclude={"depth"})


def test_full_size_configuration_is_openpis() -> None:
    for flavour, prompt in (("pi0", 48), ("pi05", 200)):
        config = config_of(flavour)
        assert config.flavour == flavour
        assert config.max_prompt_tokens == prompt
        assert (config.horizon, config.flow_steps, config.flow_target) == (50, 10, "velocity")
        assert (config.vision.tokens, config.max_cameras, config.vocab_size) == (256, 3, 257152)
        assert (config.min_period, config.max_period) == (4e-3, 4.0)


def test_all_spellings_of_the_embedding_are_one_weight() -> None:
    assert keys.our_name(LM_HEAD) == keys.our_name(EMBED) == "embed_tokens.weight"
    assert keys.our_name(f"model.{LM_HEAD}") == "embed_tokens.weight"


def test_siglip_is_read_with_and_without_its_extra_level() -> None:
    tower = f"{ROOT}paligemma.model.vision_tower."
    for level in ("", "vision_model."):
        assert (
            keys.our_name(f"{tower}{level}post_layernorm.bias")
            == "vision.tower.post_layernorm.bias"
        )


@pytest.mark.parametrize(
    "key", ["lm_head.weight", "model.model.state_proj.bias", f"{ROOT}gemma_expert.norm.weight", "x"]
)
def test_key_that_nobody_publishes_has_no_name(key: str) -> None:
    with pytest.raises(KeyError):
        keys.our_name(key)
    assert keys.unused_because(key) is None


def test_language_head_of_the_expert_is_left_out() -> None:
    why = keys.unused_because(EXPERT_HEAD)
    assert why is not None
    assert "nothing reads" in why


def test_flavour_comes_from_the_keys() -> None:
    for flavour in FLAVOURS:
        names = {keys.our_name(k) for k in published_shapes(config_of(flavour)) if k != EXPERT_HEAD}
        assert keys.flavour_of(names) == flavour
    with pytest.raises(ModelError, match="neither"):
        keys.flavour_of({"action_in_proj.weight"})
    with pytest.raises(ModelError, match="both"):
        keys.flavour_of({"time_mlp_in.weight", "action_time_mlp_in.weight"})


def test_precision_rule_keeps_norms_embeddings_of_pictures_and_heads() -> None:
    config = config_of("pi05")
    kept = {
        k: t.numel() for k, t in empty_policy(config).state_dict().items() if keys.keeps_float32(k)
    }
    assert "action.layers.17.input_layernorm.dense.weight" in kept
    assert "language.norm.weight" in kept
    assert "vision.tower.embeddings.patch_embedding.bias" in kept
    assert "time_mlp_in.weight" in kept
    assert "w0_W1" in kept
    assert "vision.tower.post_layernorm.weight" not in kept
    assert not any(part in k for k in kept for part in ("q_proj", "mlp.up", "embed_tokens"))


def test_unknown_variant_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ModelError, match=r"'gemma_9b' is not one of gemma_2b, gemma_300m, dummy"):
        gemma_variant("gemma_9b")


def test_w_of_a_full_model_is_9_mib() -> None:
    w = full_policy("pi0").state_dict()
    nbytes = sum(4 * math.prod(w[name].shape) for name in ("w0_W1", "w0_b1"))
    assert round(nbytes / 2**20, 2) == 9.07
