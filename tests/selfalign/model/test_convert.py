"""Conversion of published checkpoints: every source, and every trap on the way."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model import keys
from selfalign.model.attach import attach
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.config import ModelConfig
from selfalign.model.convert import convert
from tests.fakes.models import random_policy
from tests.fakes.published import (
    EMBED,
    EXPERT_HEAD,
    LM_HEAD,
    OPENPI,
    ROOT,
    as_openpi_keeps_it,
    fork_shapes,
    published_shapes,
    random_tensors,
    small_config,
    write_checkpoint,
)

LAYER = f"{ROOT}gemma_expert.model.layers.1.mlp.up_proj.weight"


def tensors_of(flavour: str = "pi0", seed: int = 0) -> dict[str, Tensor]:
    return random_tensors(published_shapes(small_config(flavour)), seed)


def converted(
    tmp_path: Path,
    tensors: dict[str, Tensor],
    config: dict[str, Any] | None = OPENPI,
    flavour: str = "pi0",
    **options: Any,
) -> dict[str, Tensor]:
    source = write_checkpoint(tmp_path / "source", tensors, config)
    convert(source, tmp_path / "target", like=small_config(flavour), **options)
    return load_file(tmp_path / "target" / "model.safetensors")


def by_our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {key: t for key, t in tensors.items() if keys.unused_because(key) is None}
    return {keys.our_name(key): t for key, t in kept.items()}


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_every_number_arrives_under_its_name(tmp_path: Path, flavour: str) -> None:
    tensors = tensors_of(flavour)
    written = converted(tmp_path, tensors, flavour=flavour)
    expected = by_our_names(tensors)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    config = ModelConfig.load(tmp_path / "target" / "config.json")
    assert (config.flavour, config.horizon, config.attached) == (flavour, 7, False)


def test_frozen_starts_that_a_policy_was_trained_for_are_said(tmp_path: Path) -> None:
    converted(tmp_path, tensors_of("pi05"), flavour="pi05", trained_delay=3)
    assert ModelConfig.load(tmp_path / "target" / "config.json").trained_delay == 3
    with pytest.raises(ModelError, match=r"--trained-delay: .*must be below horizon 7"):
        convert(tmp_path / "source", tmp_path / "b", like=small_config("pi05"), trained_delay=7)


def test_converted_policy_says_that_it_needs_attach(tmp_path: Path) -> None:
    converted(tmp_path, tensors_of())
    with pytest.raises(ModelError, match="selfalign attach --from"):
        load_policy(tmp_path / "target")


# --- traps: names -------------------------------------------------------------------------------


@pytest.mark.parametrize("present", [(LM_HEAD,), (EMBED,), (LM_HEAD, EMBED)])
def test_embedding_is_found_under_either_name_or_both(
    tmp_path: Path, present: tuple[str, ...]
) -> None:
    tensors = tensors_of()
    embedding = tensors.pop(LM_HEAD)
    tensors |= {name: embedding.clone() for name in present}
    assert torch.equal(converted(tmp_path, tensors)["embed_tokens.weight"], embedding)


def test_two_embeddings_that_differ_are_refused(tmp_path: Path) -> None:
    tensors = tensors_of()
    tensors[EMBED] = tensors[LM_HEAD].clone()
    tensors[EMBED][3, 2] += 1
    with pytest.raises(ModelError, match=r"name one weight, but differ"):
        converted(tmp_path, tensors)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_head_that_lerobot_does_not_tie_gives_way_to_the_embedding(
    tmp_path: Path, prefix: str
) -> None:
    """LeRobot 0.6 makes its language model anew after tying: a fine-tuned file has both, unlike."""
    tensors = tensors_of()
    tensors[EMBED] = tensors[LM_HEAD] + 1
    expected = tensors[EMBED].clone()
    named = {prefix + key: tensor for key, tensor in tensors.items()}
    written = converted(tmp_path, named, {"type": "pi0", "chunk_size": 6})
    assert torch.equal(written["embed_tokens.weight"], expected)


def test_no_embedding_at_all_is_a_missing_key(tmp_path: Path) -> None:
    tensors = tensors_of()
    del tensors[LM_HEAD]
    with pytest.raises(ModelError, match=r"missing keys \['embed_tokens.weight'\] \(1\)"):
        converted(tmp_path, tensors)


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_lerobots_prefix_is_taken_off(tmp_path: Path, flavour: str) -> None:
    tensors = tensors_of(flavour)
    prefixed = {f"model.{key}": t for key, t in tensors.items()}
    told = {"type": flavour, "chunk_size": 6, "max_state_dim": 32, "tokenizer_max_length": 64}
    written = converted(tmp_path, prefixed, told, flavour)
    assert torch.equal(written["embed_tokens.weight"], tensors[LM_HEAD])
    config = ModelConfig.load(tmp_path / "target" / "config.json")
    assert (config.horizon, config.max_prompt_tokens) == (6, 64)


def test_lerobots_base_models_have_no_prefix(tmp_path: Path) -> None:
    tensors = tensors_of()
    written = converted(tmp_path, tensors, {"type": "pi0", "chunk_size": 6})
    assert len(written) == len(tensors) - 1


def test_tower_without_its_extra_level_is_the_same_tower(tmp_path: Path) -> None:
    tensors = tensors_of()
    flat = {key.replace("vision_model.", ""): t for key, t in tensors.items()}
    assert converted(tmp_path, flat).keys() == by_our_names(tensors).keys()


def test_unused_head_is_left_out_and_reported(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", tensors_of(), OPENPI)
    done = convert(source, tmp_path / "target", like=small_config())
    assert any("left out 1 keys: a language head that nothing reads" in n for n in done.notes)


def test_file_without_the_unused_head_is_whole(tmp_path: Path) -> None:
    tensors = tensors_of()
    del tensors[EXPERT_HEAD]
    assert converted(tmp_path, tensors).keys() == by_our_names(tensors).keys()


# --- traps: what strict=False would have let through ----------------------------------------------


def test_missing_key_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    tensors = tensors_of()
    del tensors[LAYER]
    with pytest.raises(ModelError, match=r"action\.layers\.1\.mlp\.up_proj\.weight"):
        converted(tmp_path, tensors)
    assert not (tmp_path / "target").exists()


def test_lost_last_layer_is_no_smaller_model(tmp_path: Path) -> None:
    tensors = {k: t for k, t in tensors_of().items() if "language_model.layers.1." not in k}
    with pytest.raises(ModelError, match=r"missing keys \['language\.layers\.1\."):
        converted(tmp_path, tensors)


def test_extra_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"unknown keys \['value_head.weight'\]"):
        converted(tmp_path, tensors_of() | {"value_head.weight": torch.zeros(2)})


def test_extra_layer_is_named(tmp_path: Path) -> None:
    key = LAYER.replace(".1.", ".2.")
    with pytest.raises(ModelError, match=r"unknown keys \['paligemma_with_expert.*layers\.2"):
        converted(tmp_path, tensors_of() | {key: torch.zeros(24, 16)})


def test_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"up_proj.weight is \(24, 17\), not \(24, 16\)"):
        converted(tmp_path, tensors_of() | {LAYER: torch.zeros(24, 17)})


def test_not_a_number_is_named(tmp_path: Path) -> None:
    tensors = tensors_of()
    tensors[LAYER][0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"up_proj.weight holds NaN"):
        converted(tmp_path, tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# --- traps: config.json ---------------------------------------------------------------------------


def test_flavour_follows_the_keys_not_the_path(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "pi05_droid", tensors_of("pi0"), OPENPI)
    done = convert(source, tmp_path / "target", like=small_config("pi0"))
    assert done.config.flavour == "pi0"


@pytest.mark.parametrize(("flavour", "limit"), [("pi0", 48), ("pi05", 200)])
def test_prompt_length_follows_the_flavour(tmp_path: Path, flavour: str, limit: int) -> None:
    converted(tmp_path, tensors_of(flavour), flavour=flavour)
    assert ModelConfig.load(tmp_path / "target" / "config.json").max_prompt_tokens == limit


def test_lerobot_type_that_contradicts_the_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"says type 'pi05', but the keys are of pi0"):
        converted(tmp_path, tensors_of(), {"type": "pi05", "chunk_size": 5})


def test_full_size_geometry_is_asked_of_a_file_without_config(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", tensors_of())
    with pytest.raises(ModelError, match="--horizon"):
        convert(source, tmp_path / "target")
    with pytest.raises(ModelError, match=r"of depth 18: missing keys"):
        convert(source, tmp_path / "target", horizon=10)


def test_variant_of_the_config_is_taken(tmp_path: Path) -> None:
    told = OPENPI | {"paligemma_variant": "gemma_9b"}
    source = write_checkpoint(tmp_path / "source", tensors_of(), told)
    with pytest.raises(ModelError, match="gemma_9b"):
        convert(source, tmp_path / "target")


# --- traps: precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_each_weight_keeps_its_precision(tmp_path: Path, flavour: str) -> None:
    tensors = as_openpi_keeps_it(tensors_of(flavour))
    written = converted(tmp_path, tensors, flavour=flavour)
    expected = by_our_names(tensors)
    assert {n: t.dtype for n, t in written.items()} == {n: t.dtype for n, t in expected.items()}
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert {t.dtype for t in written.values()} == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_bfloat16_leaves_in_float32_what_openpi_does(tmp_path: Path, flavour: str) -> None:
    tensors = tensors_of(flavour)
    written = converted(tmp_path, tensors, flavour=flavour, dtype="bfloat16")
    expected = by_our_names(as_openpi_keeps_it(tensors))
    assert {n: t.dtype for n, t in written.items()} == {n: t.dtype for n, t in expected.items()}
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_float32_widens_without_a_change(tmp_path: Path) -> None:
    tensors = as_openpi_keeps_it(tensors_of())
    written = converted(tmp_path, tensors, dtype="float32")
    assert {t.dtype for t in written.values()} == {torch.float32}
    assert torch.equal(written["embed_tokens.weight"], tensors[LM_HEAD].float())


# --- files ----------------------------------------------------------------------------------------


def test_shards_are_joined(tmp_path: Path) -> None:
    tensors = tensors_of()
    source = write_checkpoint(tmp_path / "source", {}, OPENPI)
    (source / "model.safetensors").unlink()
    halves = [dict(list(tensors.items())[part::2]) for part in (0, 1)]
    index: dict[str, str] = {}
    for number, half in enumerate(halves):
        name = f"model-{number}.safetensors"
        save_file(half, source / name)
        index |= dict.fromkeys(half, name)
    path = source / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    convert(source, tmp_path / "target", like=small_config())
    written = load_file(tmp_path / "target" / "model.safetensors")
    assert written.keys() == by_our_names(tensors).keys()


def test_index_cannot_leave_its_directory(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", {}, OPENPI)
    path = source / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}), encoding="utf-8")
    with pytest.raises(ModelError, match="names no plain files"):
        convert(source, tmp_path / "target")


def test_adapter_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", {}, OPENPI)
    (source / "model.safetensors").unlink()
    (source / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="merge it into its model first"):
        convert(source, tmp_path / "target")


def test_source_without_a_tokenizer_is_refused_with_what_to_do(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", tensors_of(), OPENPI, tokenizer=False)
    with pytest.raises(ModelError, match=r"paligemma-3b-pt-224.*--tokenizer FILE"):
        convert(source, tmp_path / "target", like=small_config())
    given = write_checkpoint(tmp_path / "other", {}) / "tokenizer.json"
    convert(source, tmp_path / "target", like=small_config(), tokenizer=given)
    assert (tmp_path / "target" / "tokenizer.json").read_bytes() == given.read_bytes()


def test_full_directory_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "notes.txt").touch()
    with pytest.raises(ModelError, match="not an empty directory"):
        converted(tmp_path, tensors_of())


def test_our_own_directory_is_converted_too(tmp_path: Path) -> None:
    policy = random_policy()
    save_policy(policy, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "target", dtype="bfloat16")
    written = load_file(tmp_path / "target" / "model.safetensors")
    assert written["action.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    assert torch.equal(written["w0_W1"], policy.w0_W1)
    convert(tmp_path / "source", tmp_path / "same")
    assert load_policy(tmp_path / "same").base_sha256 == policy.base_sha256


# --- the fork with TTT ----------------------------------------------------------------------------


@pytest.mark.parametrize("experts", [("gemma_expert",), ("alignment_expert",), None])
def test_ttt_layers_of_the_fork_are_found_under_either_expert(
    tmp_path: Path, experts: tuple[str, ...] | None
) -> None:
    config = small_config("pi05")
    both = ("alignment_expert", "gemma_expert")
    ttt = [random_tensors(fork_shapes(config, name)) for name in experts or both]
    # The two experts share one object: under both names lie the same numbers.
    first = list(ttt[0].values())
    tensors = tensors_of("pi05")
    for part in ttt:
        tensors |= dict(zip(part, [t.clone() for t in first], strict=True))
    written = converted(tmp_path, tensors, flavour="pi05")
    layer = f"{ROOT}{(experts or both)[0]}.model.layers.1.ttt_layer."
    assert written["w0_W1"].dtype == torch.float32
    assert torch.equal(written["w0_W1"][1], tensors[f"{layer}W1"])
    assert torch.equal(written["action.layers.1.ttt.gate"], tensors[f"{layer}gating_alpha"])
    rates = tensors[f"{layer}learnable_ttt_lr_weight"]
    assert torch.equal(written["action.layers.1.ttt.rate_weight"], rates[..., 0])
    told = ModelConfig.load(tmp_path / "target" / "config.json").ttt
    assert (told.layers, told.inner_step, told.inner_rate) == ("all", True, 7.0)


def test_fork_becomes_a_policy_that_keeps_its_w(tmp_path: Path) -> None:
    config = small_config("pi05")
    tensors = tensors_of("pi05") | random_tensors(fork_shapes(config))
    tensors["perception_head.weight"] = torch.zeros(32, 16)
    written = converted(tmp_path, tensors, flavour="pi05")
    attach(tmp_path / "target", tmp_path / "whole", alignment_depth=1)
    policy = load_policy(tmp_path / "whole")
    assert torch.equal(policy.w0_W1, written["w0_W1"])
    assert torch.equal(
        policy.state_dict()["action.layers.0.ttt.gate"], written["action.layers.0.ttt.gate"]
    )


def test_w_of_many_embodiments_is_refused(tmp_path: Path) -> None:
    config = small_config("pi05")
    tensors = tensors_of("pi05") | random_tensors(fork_shapes(config))
    for key in [key for key in tensors if key.endswith("ttt_layer.W1")]:
        tensors[key] = torch.zeros(20, *tensors[key].shape)
    with pytest.raises(ModelError, match=r"W1 is \(20, 2, 8, 8\)"):
        converted(tmp_path, tensors, flavour="pi05")


def test_half_a_ttt_layer_is_refused(tmp_path: Path) -> None:
    config = small_config("pi05")
    tensors = tensors_of("pi05") | random_tensors(fork_shapes(config))
    del tensors[f"{ROOT}gemma_expert.model.layers.0.ttt_layer.k_proj.weight"]
    with pytest.raises(ModelError, match=r"missing keys \['action.layers.0.ttt.k_proj.weight'\]"):
        converted(tmp_path, tensors, flavour="pi05")
