"""Names of weights: those of published checkpoints, and ours.

The tables follow facts of openpi's PyTorch model (section 1.8 of the project's notes); LeRobot
puts `model.` before every name, and the fork with TTT adds its own.
"""

import re
from collections.abc import Container
from typing import Literal

from selfalign.errors import ModelError

_ROOT = "paligemma_with_expert."
# First match wins. SigLIP lost its level `vision_model.` in transformers 5; files have either.
_RENAMED = (
    (f"{_ROOT}paligemma.model.vision_tower.vision_model.", "vision.tower."),
    (f"{_ROOT}paligemma.model.vision_tower.", "vision.tower."),
    (f"{_ROOT}paligemma.model.multi_modal_projector.linear.", "vision.projector."),
    (f"{_ROOT}paligemma.model.language_model.embed_tokens.", "embed_tokens."),
    (f"{_ROOT}paligemma.lm_head.", "embed_tokens."),
    (f"{_ROOT}paligemma.model.language_model.", "language."),
    (f"{_ROOT}gemma_expert.model.", "action."),
)
_HEADS = re.compile(
    r"(action_in_proj|action_out_proj|state_proj|time_mlp_in|time_mlp_out|action_time_mlp_in|"
    r"action_time_mlp_out)\.(weight|bias)"
)
_FORK_TTT = re.compile(
    rf"{re.escape(_ROOT)}(?:gemma_expert|alignment_expert)\.model\.layers\.(\d+)\.ttt_layer\.(.+)"
)
_FORK_NAMES = {
    "q_proj.weight": "q_proj.weight",
    "k_proj.weight": "k_proj.weight",
    "v_proj.weight": "v_proj.weight",
    "o_proj.weight": "o_proj.weight",
    "post_norm.weight": "post_norm.weight",
    "post_norm.bias": "post_norm.bias",
    "ttt_norm_weight": "norm_weight",
    "ttt_norm_bias": "norm_bias",
    "gating_alpha": "gate",
    "learnable_ttt_lr_weight": "rate_weight",
    "learnable_ttt_lr_bias": "rate_bias",
}
_UNUSED = {
    "a language head that nothing reads": re.compile(
        rf"{re.escape(_ROOT)}(gemma_expert|alignment_expert)\.lm_head\.weight"
    ),
    "made by the fork, read by nothing": re.compile(r".*\.ttt_layer\.adarms_gate_dense\..+"),
    "the fork's alignment expert, of another design: attach makes ours": re.compile(
        rf"{re.escape(_ROOT)}alignment_expert\.model\..+"
        r"|(inverse_dynamics_head|dynamics_head|perception_head)\.(weight|bias)"
    ),
}
_FLOAT32 = re.compile(
    r"w0_.+"
    r"|vision\.tower\.embeddings\..+|vision\.readout\.spread"
    r"|(language|action|alignment\.expert)\.(layers\.\d+\.)?"
    r"(norm|input_layernorm|post_attention_layernorm)\..+"
    r"|(action_in_proj|action_out_proj|state_proj|time_mlp_in|time_mlp_out|action_time_mlp_in|"
    r"action_time_mlp_out)\..+"
)
_ROW = re.compile(r"(w0_W1|w0_b1)\[(\d+)\]")


def our_name(key: str) -> str:
    """Our name of a published weight.

    W of layer i of the fork is `w0_W1[i]` and `w0_b1[i]`: in our file the layers are stacked.

    Raises:
        KeyError: nobody publishes such a key.
    """
    bare = key.removeprefix("model.")
    if match := _FORK_TTT.fullmatch(bare):
        layer, name = match.groups()
        if name in {"W1", "b1"}:
            return f"w0_{name}[{layer}]"
        if name in _FORK_NAMES:
            return f"action.layers.{layer}.ttt.{_FORK_NAMES[name]}"
    elif _HEADS.fullmatch(bare):
        return bare
    else:
        for old, new in _RENAMED:
            if bare.startswith(old):
                return new + bare.removeprefix(old)
    raise KeyError(key)


def unused_because(key: str) -> str | None:
    """Why a published key is left out, or None when it is not."""
    bare = key.removeprefix("model.")
    if _FORK_TTT.fullmatch(bare) and "adarms_gate_dense" not in bare:
        return None
    return next((why for why, keys in _UNUSED.items() if keys.fullmatch(bare)), None)


def is_spare_head(key: str, others: Container[str]) -> bool:
    """True for PaliGemma's language head where the token embedding stands beside it.

    LeRobot does not tie them: training changes the embedding, which the policy reads, alone.
    """
    start, root, _ = key.rpartition(f"{_ROOT}paligemma.lm_head.weight")
    return (
        bool(root) and f"{start}{_ROOT}paligemma.model.language_model.embed_tokens.weight" in others
    )


def fast_row(name: str) -> tuple[str, int] | None:
    """(`w0_W1` or `w0_b1`, layer) of a name like `w0_W1[3]`, else None."""
    match = _ROW.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def is_added(name: str, flavour: Literal["pi0", "pi05"]) -> bool:
    """Whether `selfalign attach` makes this weight: no published checkpoint of it has one."""
    if name.startswith("state_proj."):
        return flavour == "pi05"
    return name.startswith(("alignment.", "vision.readout.")) or is_ttt(name)


def is_ttt(name: str) -> bool:
    """Whether a weight belongs to a TTT layer, W0 included."""
    return name.startswith("w0_") or ".ttt." in name


def keeps_float32(name: str) -> bool:
    """Whether openpi keeps this weight in float32 when the rest is bfloat16; W0 is ours to add."""
    return _FLOAT32.fullmatch(name) is not None


def flavour_of(names: set[str]) -> Literal["pi0", "pi05"]:
    """Which model has these weights (our names). A path or a flag may lie; the keys do not.

    Raises:
        ModelError: the weights are of both or of neither.
    """
    pi0 = "action_time_mlp_in.weight" in names
    pi05 = "time_mlp_in.weight" in names
    if pi0 == pi05:
        raise ModelError(
            "pi0 has action_time_mlp_in, pi0.5 has time_mlp_in; these weights have "
            f"{'both' if pi0 else 'neither'}"
        )
    return "pi0" if pi0 else "pi05"
