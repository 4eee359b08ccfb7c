"""Gemma blocks with a read-only prefix, adaptive RMSNorm and TTT, from stock transformers modules.

The stock modules hold the weights (their names are those of the published checkpoints); the loop
over layers is ours, since stock attention writes to the cache that it reads.

Shape key: B batch, T tokens of this stack, P prefix tokens, K = P + T, D width, C condition width.
"""

from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import GemmaConfig
from transformers.models.gemma.modeling_gemma import (
    GemmaAttention,
    GemmaMLP,
    GemmaRMSNorm,
    GemmaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from selfalign.model.config import StackConfig, TTTConfig
from selfalign.model.ttt import TTTLayer
from selfalign.model.weights import FastWeights

KeyValue = tuple[Tensor, Tensor]


def gemma_config(config: StackConfig) -> GemmaConfig:
    """The transformers configuration of one stack."""
    return GemmaConfig(
        vocab_size=1,
        hidden_size=config.width,
        intermediate_size=config.mlp_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )


@final
class AdaRMSNorm(nn.Module):
    """RMSNorm whose scale, shift and residual gate come from a condition (pi0.5's time)."""

    def __init__(self, width: int, condition_width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.dense = nn.Linear(condition_width, 3 * width)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x_BTD: Tensor, condition_BC: Tensor) -> tuple[Tensor, Tensor]:
        """The normed x and the gate [B, 1, D] of the residual that follows.

        The condition may also be one per token, [B, T, C]; then the gate is [B, T, D].
        """
        x = x_BTD.float()
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        if condition_BC.dim() == 2:
            condition_BC = condition_BC[:, None]
        scale, shift, gate = self.dense(condition_BC.to(self.dense.weight.dtype)).chunk(3, dim=-1)
        return (normed * (1 + scale.float()) + shift.float()).type_as(x_BTD), gate.type_as(x_BTD)


@final
class GemmaLayer(nn.Module):
    """One block. Sub-modules are named as in published checkpoints, plus `ttt` where it has one."""

    def __init__(
        self, config: GemmaConfig, index: int, ttt: TTTConfig | None, condition_width: int | None
    ) -> None:
        super().__init__()
        self.self_attn = GemmaAttention(config, index)
        self.mlp = GemmaMLP(config)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.adaptive = condition_width is not None
        if condition_width is not None:
            self.input_layernorm: nn.Module = AdaRMSNorm(width, condition_width, eps)
            self.post_attention_layernorm: nn.Module = AdaRMSNorm(width, condition_width, eps)
        else:
            self.input_layernorm = GemmaRMSNorm(width, eps)
            self.post_attention_layernorm = GemmaRMSNorm(width, eps)
        self.ttt = TTTLayer(width, ttt) if ttt is not None else None
        self.eager = False

    def norm(
        self, norm: nn.Module, x: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Apply one of the two norms; the gate is None where the norm is not adaptive."""
        return norm(x, condition) if self.adaptive else (norm(x), None)

    def key_value(self, normed_BTD: Tensor, rotary: KeyValue) -> KeyValue:
        """Rotated keys and values [B, kv_heads, T, head_dim]."""
        key = self._heads(self.self_attn.k_proj(normed_BTD))
        _, key = apply_rotary_pos_emb(key, key, *rotary)
        return key, self._heads(self.self_attn.v_proj(normed_BTD))

    def forward(
        self,
        x_BTD: Tensor,
        rotary: KeyValue,
        mask_BTK: Tensor,
        prefix: KeyValue | None = None,
        condition_BC: Tensor | None = None,
        fast: KeyValue | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Attend to the prefix and to itself. Returns the new x and its own keys, values."""
        normed, gate = self.norm(self.input_layernorm, x_BTD, condition_BC)
        own = self.key_value(normed, rotary)
        x_BTD = x_BTD + _gated(self._attend(normed, rotary, own, prefix, mask_BTK), gate)
        if self.ttt is not None and fast is not None:
            x_BTD = self.ttt(x_BTD, *fast, mask_BTK[..., -x_BTD.shape[1] :])
        normed, gate = self.norm(self.post_attention_layernorm, x_BTD, condition_BC)
        return x_BTD + _gated(self.mlp(normed), gate), own

    def _attend(
        self, normed: Tensor, rotary: KeyValue, own: KeyValue, prefix: KeyValue | None, mask: Tensor
    ) -> Tensor:
        query = self._heads(self.self_attn.q_proj(normed))
        query, _ = apply_rotary_pos_emb(query, query, *rotary)
        key, value = own
        if prefix is not None:
            key = torch.cat([prefix[0].type_as(key), key], dim=2)
            value = torch.cat([prefix[1].type_as(value), value], dim=2)
        attend = eager_attention if self.eager else fused_attention
        out = attend(query, key, value, mask[:, None], self.self_attn.scaling)
        return self.self_attn.o_proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.self_attn.head_dim)).transpose(1, 2)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """PyTorch's fused attention: the fastest forward pass. Mask is bool [B, 1, T, K]."""
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The same by plain products: on a CPU its backward pass is several times faster."""
    groups = q.shape[1] // k.shape[1]
    q = q.unflatten(1, (k.shape[1], groups))
    scores = (q @ k[:, :, None].transpose(-1, -2)).float() * scale
    scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
    return (scores.softmax(-1).type_as(v) @ v[:, :, None]).flatten(1, 2)


def _gated(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else x * gate


@final
@dataclass(frozen=True)
class StackOutput:
    """Final hidden states [B, T, D], and the keys and values of every layer."""

    hidden: Tensor
    key_values: list[KeyValue]


@final
class GemmaStack(nn.Module):
    """Blocks and a final norm, without embedding and head. Knows nothing of tokens."""

    def __init__(
        self,
        config: StackConfig,
        *,
        ttt: TTTConfig | None = None,
        ttt_layers: tuple[int, ...] = (),
        condition_width: int | None = None,
    ) -> None:
        super().__init__()
        stock = gemma_config(config)
        self.layers = nn.ModuleList(
            GemmaLayer(stock, i, ttt if i in ttt_layers else None, condition_width)
            for i in range(config.depth)
        )
        self.adaptive = condition_width is not None
        self.norm: nn.Module = (
            AdaRMSNorm(config.width, condition_width, stock.rms_norm_eps)
            if condition_width is not None
            else GemmaRMSNorm(config.width, stock.rms_norm_eps)
        )
        self.rotary_emb = GemmaRotaryEmbedding(stock)
        self.ttt_rows = {layer: row for row, layer in enumerate(ttt_layers)}
        self.gradient_checkpointing = False
        _init_linear(self)

    def forward(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor,
        mask_BTK: Tensor,
        *,
        prefix: list[KeyValue] | None = None,
        condition_BC: Tensor | None = None,
        w: FastWeights | None = None,
    ) -> StackOutput:
        """Run all layers.

        Args:
            x_BTD: embedded tokens.
            positions_BT: rotary positions.
            mask_BTK: True where token t may attend to key k; prefix keys come first.
            prefix: keys and values of every layer; read, never written.
            condition_BC: the time condition of adaptive norms.
            w: fast weights for the layers that have TTT; None skips these layers' TTT.
        """
        rotary = self.rotary_emb(x_BTD, positions_BT)
        key_values: list[KeyValue] = []
        for index, layer in enumerate(self.layers):
            past = None if prefix is None else prefix[index]
            args = (x_BTD, rotary, mask_BTK, past, condition_BC, self.fast(index, w))
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x_BTD, own = checkpoint(layer, *args, use_reentrant=False)
            else:
                x_BTD, own = layer(*args)
            key_values.append(own)
        hidden = self.norm(x_BTD, condition_BC)[0] if self.adaptive else self.norm(x_BTD)
        return StackOutput(hidden, key_values)

    def key_values(self, x_BTD: Tensor, positions_BT: Tensor, mask_BTK: Tensor) -> list[KeyValue]:
        """Only the keys and values of every layer: skips what nothing reads in the last layer."""
        rotary = self.rotary_emb(x_BTD, positions_BT)
        out: list[KeyValue] = []
        *layers, last = self._blocks()
        for layer in layers:
            x_BTD, own = layer(x_BTD, rotary, mask_BTK)
            out.append(own)
        out.append(last.key_value(last.norm(last.input_layernorm, x_BTD, None)[0], rotary))
        return out

    def use_eager_attention(self, enabled: bool) -> None:  # noqa: FBT001
        """Choose between `eager_attention` (training on a CPU) and `fused_attention`."""
        for layer in self._blocks():
            layer.eager = enabled

    def _blocks(self) -> list[GemmaLayer]:
        return cast("list[GemmaLayer]", list(self.layers))

    def fast(self, index: int, w: FastWeights | None) -> KeyValue | None:
        """W1 and b1 of one layer, or None where it has no TTT."""
        row = self.ttt_rows.get(index)
        if w is None or row is None:
            return None
        return w.W1[..., row, :, :, :], w.b1[..., row, :, :, :]


def _init_linear(stack: nn.Module) -> None:
    """Gemma's initialisation for plain linear layers; adaptive norms keep their zeros."""
    for name, module in stack.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith(".dense"):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
