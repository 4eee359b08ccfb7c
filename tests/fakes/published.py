"""Checkpoints as openpi and LeRobot publish them: names, shapes, files. Written from their rules.

The tables are those of the project's notes on openpi (section 1.8), with letters for the sizes, so
that the same rows give the full-size table and one of a few thousand numbers.
"""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from selfalign.model.config import ModelConfig, pi0_config, pi05_config
from selfalign.model.tokenizer import small_tokenizer

OPENPI = {"action_dim": 32, "action_horizon": 7, "precision": "bfloat16"}
ROOT = "paligemma_with_expert."
LM_HEAD = f"{ROOT}paligemma.lm_head.weight"
EMBED = f"{ROOT}paligemma.model.language_model.embed_tokens.weight"
EXPERT_HEAD = f"{ROOT}gemma_expert.lm_head.weight"
_V = f"{ROOT}paligemma.model.vision_tower.vision_model."
_L = f"{ROOT}paligemma.model.language_model."
_E = f"{ROOT}gemma_expert.model."

# Letters: V vision width, M vision mlp, p patch side, n patches, W prefix width, G its mlp, w the
# expert's width, g its mlp, q all queries of a token, k its keys, A actions.
_VISION = """
embeddings.patch_embedding.weight V 3 p p
embeddings.patch_embedding.bias V
embeddings.position_embedding.weight n V
post_layernorm.weight V
post_layernorm.bias V
"""
_VISION_LAYER = """
layer_norm1.weight V
layer_norm1.bias V
layer_norm2.weight V
layer_norm2.bias V
self_attn.q_proj.weight V V
self_attn.q_proj.bias V
self_attn.k_proj.weight V V
self_attn.k_proj.bias V
self_attn.v_proj.weight V V
self_attn.v_proj.bias V
self_attn.out_proj.weight V V
self_attn.out_proj.bias V
mlp.fc1.weight M V
mlp.fc1.bias M
mlp.fc2.weight V M
mlp.fc2.bias V
"""
_LANGUAGE_LAYER = """
self_attn.q_proj.weight q W
self_attn.k_proj.weight k W
self_attn.v_proj.weight k W
self_attn.o_proj.weight W q
mlp.gate_proj.weight G W
mlp.up_proj.weight G W
mlp.down_proj.weight W G
input_layernorm.weight W
post_attention_layernorm.weight W
"""
_EXPERT_LAYER = """
self_attn.q_proj.weight q w
self_attn.k_proj.weight k w
self_attn.v_proj.weight k w
self_attn.o_proj.weight w q
mlp.gate_proj.weight g w
mlp.up_proj.weight g w
mlp.down_proj.weight w g
"""
_HEADS = """
action_in_proj.weight w A
action_in_proj.bias w
action_out_proj.weight A w
action_out_proj.bias A
"""
_PI0_HEADS = """
state_proj.weight w A
state_proj.bias w
action_time_mlp_in.weight w 2w
action_time_mlp_in.bias w
action_time_mlp_out.weight w w
action_time_mlp_out.bias w
"""
_PI05_HEADS = """
time_mlp_in.weight w w
time_mlp_in.bias w
time_mlp_out.weight w w
time_mlp_out.bias w
"""
_TTT_LAYER = """
W1 h d d
b1 h 1 d
q_proj.weight w w
k_proj.weight w w
v_proj.weight w w
o_proj.weight w w
ttt_norm_weight h d
ttt_norm_bias h d
post_norm.weight w
post_norm.bias w
learnable_ttt_lr_weight h w 1
learnable_ttt_lr_bias h 1
gating_alpha w
adarms_gate_dense.weight w w
adarms_gate_dense.bias w
"""

Shapes = dict[str, tuple[int, ...]]


def small_config(flavour: str = "pi0", **fields: Any) -> ModelConfig:
    """The published architecture at a size of a few ten thousand numbers."""
    stack = {"width": 16, "depth": 2, "mlp_dim": 24, "heads": 2, "kv_heads": 1, "head_dim": 8}
    full = pi05_config() if flavour == "pi05" else pi0_config()
    data = full.model_dump() | {
        "vision": full.vision.model_dump()
        | {"image_size": 32, "patch_size": 16, "width": 12, "depth": 2, "heads": 2, "mlp_dim": 20},
        "language": {**stack, "width": 24},
        "action": stack,
        "alignment": {**stack, "depth": 1},
        "ttt": {"heads": 2, "gate_init": 0.0},
        "horizon": 5,
        "flow_steps": 3,
        "vocab_size": 512,
        "feature_dim": 12,
    }
    return ModelConfig.model_validate(data | fields)


def medium_config() -> ModelConfig:
    """A published geometry of some 40 million numbers, most of them in a few large tensors."""
    data = small_config().model_dump() | {"vocab_size": 30_000}
    for part in ("language", "action", "alignment"):
        data[part] |= {"width": 512, "mlp_dim": 2048, "heads": 4, "head_dim": 64}
    return ModelConfig.model_validate(data)


GEOMETRIES: dict[str, Callable[[], ModelConfig]] = {
    "medium": medium_config,
    "full width": partial(pi05_config, depth=2),
    "full width, short table": lambda: pi05_config(depth=2).model_copy(
        update={"vocab_size": 32768}
    ),
}


def published_shapes(config: ModelConfig) -> Shapes:
    """Every key of a converted openpi checkpoint of this geometry, with its shape."""
    c, adaptive = config, config.flavour == "pi05"
    sizes = {
        "V": c.vision.width,
        "M": c.vision.mlp_dim,
        "p": c.vision.patch_size,
        "n": c.vision.tokens,
        "W": c.language.width,
        "G": c.language.mlp_dim,
        "w": c.action.width,
        "2w": 2 * c.action.width,
        "3w": 3 * c.action.width,
        "g": c.action.mlp_dim,
        "q": c.action.heads * c.action.head_dim,
        "k": c.action.kv_heads * c.action.head_dim,
        "A": c.action_dim,
    }
    out = _rows(_V, _VISION, sizes)
    out |= _layers(f"{_V}encoder.layers.", c.vision.depth, _VISION_LAYER, sizes)
    out |= {
        f"{ROOT}paligemma.model.multi_modal_projector.linear.weight": (sizes["W"], sizes["V"]),
        f"{ROOT}paligemma.model.multi_modal_projector.linear.bias": (sizes["W"],),
        LM_HEAD: (c.vocab_size, sizes["W"]),
        f"{_L}norm.weight": (sizes["W"],),
        EXPERT_HEAD: (c.vocab_size, sizes["w"]),
    }
    out |= _layers(f"{_L}layers.", c.language.depth, _LANGUAGE_LAYER, sizes)
    norm = "{0}.dense.weight 3w w\n{0}.dense.bias 3w" if adaptive else "{0}.weight w"
    norms = [norm.format(name) for name in ("input_layernorm", "post_attention_layernorm")]
    expert = _EXPERT_LAYER + "\n".join(norms)
    out |= _layers(f"{_E}layers.", c.action.depth, expert, sizes)
    out |= _rows(_E, norm.format("norm"), sizes)
    return out | _rows("", _HEADS + (_PI05_HEADS if adaptive else _PI0_HEADS), sizes)


def fork_shapes(config: ModelConfig, expert: str = "gemma_expert") -> Shapes:
    """What the fork with TTT adds, under the name of one of the two experts that share it."""
    heads, width = config.ttt.heads, config.action.width
    sizes = {"h": heads, "d": width // heads, "w": width, "1": 1}
    start = f"{ROOT}{expert}.model.layers."
    rows = "\n".join(f"ttt_layer.{row}" for row in _TTT_LAYER.split("\n") if row)
    return _layers(start, config.action.depth, rows, sizes)


def random_tensors(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random float32 numbers of a size that keeps a forward pass tame."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(shape, generator=generator)
        * (0.3 if len(shape) < 2 else shape[-1] ** -0.5)
        for key, shape in sorted(shapes.items())
    }


def as_openpi_keeps_it(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """bfloat16, but for what openpi's converter leaves in float32."""
    kept = (".patch_embedding", ".position_embedding", "input_layernorm.", "_attention_layernorm.")
    norms = (f"{_L}norm.", f"{_E}norm.")
    return {
        key: t
        if not key.startswith(ROOT) or any(k in key for k in kept) or key.startswith(norms)
        else t.bfloat16()
        for key, t in tensors.items()
    }


def write_checkpoint(
    directory: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    tokenizer: bool = True,
) -> Path:
    """A checkpoint directory. The tokenizer is ours, for PaliGemma's is not ours to have."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({key: t.contiguous() for key, t in tensors.items()}, directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tokenizer:
        small_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def numbers(shapes: Mapping[str, tuple[int, ...]], part: str = "") -> int:
    """Parameters under names that contain a word."""
    return sum(math.prod(shape) for key, shape in shapes.items() if part in key)


def _layers(start: str, depth: int, rows: str, sizes: Mapping[str, int]) -> Shapes:
    out: Shapes = {}
    for index in range(depth):
        out |= _rows(f"{start}{index}.", rows, sizes)
    return out


def _rows(start: str, rows: str, sizes: Mapping[str, int]) -> Shapes:
    table = [row.split() for row in rows.split("\n") if row]
    return {
        start + name: tuple(sizes.get(size) or int(size) for size in letters)
        for name, *letters in table
    }
