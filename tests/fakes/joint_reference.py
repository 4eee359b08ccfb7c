"""A slow policy pass for tests: prefix and action tokens as one sequence, no cache, no batching.

It reads the weights of a policy and nothing else of its code, but for the vision tower. Every
attention is written out per head; rotary positions are turned pair by pair.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from selfalign.model.gemma import GemmaLayer
from selfalign.model.policy import Policy
from selfalign.model.ttt import TTTLayer
from selfalign.model.weights import FastWeights


def predict(
    policy: Policy,
    images_N3SS: Tensor,
    image_mask_N: list[bool],
    tokens: list[int],
    state: Tensor,
    x_t: Tensor,
    time: float,
    w: FastWeights,
) -> Tensor:
    """What `Policy.predict` returns for one sample [H, A]; masked cameras are left out."""
    config = policy.config
    seen = policy.vision(images_N3SS[image_mask_N])[0].flatten(0, 1)
    words = policy.embed_tokens.weight[tokens] * math.sqrt(config.language.width)
    prefix = torch.cat([seen, words])
    suffix, condition = _suffix(policy, state, x_t, time)
    p, n = len(prefix), len(suffix)
    # Openpi's rule: a token sees its own block and all blocks before it.
    block = [0] * p + ([1] + [2] * (n - 1) if config.flavour == "pi0" else [1] * n)
    visible = [[other <= own for other in block] for own in block]
    for index, (left, right) in enumerate(
        zip(policy.language.layers, policy.action.layers, strict=True)
    ):
        fast = None
        if index in policy.action.ttt_rows:
            row = policy.action.ttt_rows[index]
            fast = w.W1[row], w.b1[row]
        prefix, suffix = _layer(left, right, prefix, suffix, visible, condition, fast)
    hidden, _ = _norm(policy.action.norm, suffix, condition)
    return F.linear(hidden[-config.horizon :], *_weights(policy.action_out_proj))


def _suffix(
    policy: Policy, state: Tensor, x_t: Tensor, time: float
) -> tuple[Tensor, Tensor | None]:
    config = policy.config
    width = config.action.width
    actions = F.linear(x_t, *_weights(policy.action_in_proj))
    steps = [i / (width // 2 - 1) for i in range(width // 2)]
    periods = [config.min_period * (config.max_period / config.min_period) ** s for s in steps]
    angles = [2 * math.pi * time / period for period in periods]
    clock = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    if config.flavour == "pi05":
        hidden = F.silu(F.linear(clock, *_weights(policy.time_mlp_in)))
        return actions, F.silu(F.linear(hidden, *_weights(policy.time_mlp_out)))
    both = torch.cat([actions, clock.expand(len(actions), -1)], dim=-1)
    hidden = F.silu(F.linear(both, *_weights(policy.action_time_mlp_in)))
    actions = F.linear(hidden, *_weights(policy.action_time_mlp_out))
    return torch.cat([F.linear(state, *_weights(policy.state_proj))[None], actions]), None


def _layer(
    left: GemmaLayer,
    right: GemmaLayer,
    prefix: Tensor,
    suffix: Tensor,
    visible: list[list[bool]],
    condition: Tensor | None,
    fast: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    normed_left, _ = _norm(left.input_layernorm, prefix, None)
    normed_right, gate = _norm(right.input_layernorm, suffix, condition)
    mixed = _attention(left, right, normed_left, normed_right, visible)
    prefix = prefix + F.linear(mixed[: len(prefix)], left.self_attn.o_proj.weight)
    suffix = suffix + gate * F.linear(mixed[len(prefix) :], right.self_attn.o_proj.weight)
    if fast is not None:
        suffix = _ttt(right.ttt, suffix, *fast)
    normed_left, _ = _norm(left.post_attention_layernorm, prefix, None)
    normed_right, gate = _norm(right.post_attention_layernorm, suffix, condition)
    return prefix + _mlp(left, normed_left), suffix + gate * _mlp(right, normed_right)


def _attention(
    left: GemmaLayer, right: GemmaLayer, a: Tensor, b: Tensor, visible: list[list[bool]]
) -> Tensor:
    dim = left.self_attn.head_dim

    def project(name: str) -> Tensor:
        parts = [
            F.linear(x, getattr(layer.self_attn, name).weight)
            for layer, x in ((left, a), (right, b))
        ]
        return torch.cat(parts).unflatten(-1, (-1, dim))

    q, k, v = _rotate(project("q_proj")), _rotate(project("k_proj")), project("v_proj")
    shared = q.shape[1] // k.shape[1]
    rows = []
    for t, sees in enumerate(visible):
        others = [s for s, is_visible in enumerate(sees) if is_visible]
        heads = []
        for head in range(q.shape[1]):
            scores = k[others, head // shared] @ q[t, head] / math.sqrt(dim)
            heads.append(scores.softmax(0) @ v[others, head // shared])
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def _rotate(x_The: Tensor) -> Tensor:
    """Turn the pair (i, i + e/2) of the token at position t by t / 10000^(2i/e)."""
    out = x_The.clone()
    half = x_The.shape[-1] // 2
    for t in range(len(x_The)):
        for i in range(half):
            angle = t / 10000 ** (i / half)
            first, second = x_The[t, :, i], x_The[t, :, i + half]
            out[t, :, i] = first * math.cos(angle) - second * math.sin(angle)
            out[t, :, i + half] = second * math.cos(angle) + first * math.sin(angle)
    return out


def _norm(norm: torch.nn.Module, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    normed = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    if not hasattr(norm, "dense"):
        return normed * (1 + norm.weight), torch.ones(())
    scale, shift, gate = F.linear(condition, *_weights(norm.dense)).chunk(3)
    return normed * (1 + scale) + shift, gate


def _mlp(layer: GemmaLayer, x: Tensor) -> Tensor:
    gate = F.gelu(F.linear(x, layer.mlp.gate_proj.weight), approximate="tanh")
    return F.linear(gate * F.linear(x, layer.mlp.up_proj.weight), layer.mlp.down_proj.weight)


def _ttt(layer: TTTLayer, x: Tensor, W1: Tensor, b1: Tensor) -> Tensor:
    q = F.linear(x, layer.q_proj.weight).unflatten(-1, (layer.heads, layer.dim))
    parts = []
    for head in range(layer.heads):
        z = q[:, head] @ W1[head] + b1[head]
        normed = F.layer_norm(z, (layer.dim,), eps=1e-6)
        parts.append(q[:, head] + normed * layer.norm_weight[head] + layer.norm_bias[head])
    mixed = F.layer_norm(torch.cat(parts, -1), (x.shape[-1],), *_weights(layer.post_norm), 1e-6)
    return x + torch.tanh(layer.gate) * F.linear(mixed, layer.o_proj.weight)


def _weights(module: torch.nn.Module) -> tuple[Tensor, Tensor]:
    return module.weight, module.bias
