"""Blocks of a small frozen model, folded into few products: the same numbers in fewer calls.

A small model on one core is bound by the number of calls, not by arithmetic. So what is constant
goes into the weights beside it: the scale of a norm, the gate of a TTT layer, the scale of
attention, and, once a chunk, W. Queries, keys, values and their halves turned for the rotary
embedding come from one product. The residual stream is kept as [x, -x]: its mean is 0 and its
variance is the mean square of x, so the fused LayerNorm of PyTorch computes RMSNorm.

Shape key: B batch, T tokens, R = B * T rows, D width, H heads, v key-value heads, n = H / v,
e head width, K keys, L layers, G groups that share one W, h TTT heads, d = D / h, m MLP width.
"""

from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from selfalign.model.gemma import GemmaLayer, GemmaStack
from selfalign.model.ttt import TTTLayer
from selfalign.model.weights import FastWeights

# What a TTT layer multiplies with for one W: [D, 2 D] and [2 D], or [G, D, 2 D] and [G, 1, 2 D].
FoldedW = tuple[Tensor, Tensor]


def mirrored(weight_oi: Tensor) -> Tensor:
    """The weights [i, 2 o] of a product that adds to a stream kept as [x, -x]."""
    return torch.cat([weight_oi, -weight_oi]).t().contiguous()


def mirror(x_RD: Tensor) -> Tensor:
    """[x, -x]."""
    return torch.cat([x_RD, -x_RD], dim=-1)


def rms_norm(stream_R2D: Tensor, eps: float) -> Tensor:
    """RMSNorm of x without a scale, from [x, -x]: [R, D]."""
    width = stream_R2D.shape[-1]
    return torch.layer_norm(stream_R2D, (width,), None, None, eps)[..., : width // 2]


@final
@dataclass(frozen=True)
class Rotary:
    """cos [R, H + 2 v, e], which is 1 for values, and sin [R, 1, e]."""

    cos: Tensor
    sin: Tensor


@final
class FoldedTTT:
    """The TTT layers of one stack without their W, and how W is folded in."""

    def __init__(self, layers: list[TTTLayer]) -> None:
        first = layers[0]
        self.heads, self.dim = first.heads, first.dim
        self.q_LDD = torch.stack([layer.q_proj.weight.t() for layer in layers])
        self.shift_L1D = torch.stack([layer.norm_bias.reshape(1, -1) for layer in layers])
        self.scale_Lhd = [layer.norm_weight for layer in layers]
        self.post = [
            (layer.post_norm.weight, layer.post_norm.bias, layer.post_norm.eps) for layer in layers
        ]
        self.out = [
            mirrored(torch.tanh(layer.gate)[:, None] * layer.o_proj.weight) for layer in layers
        ]

    def fold(self, w: FastWeights, rows: list[int]) -> list[FoldedW]:
        """Both products of x with q_proj and with q_proj W1, for each of the layers."""
        W1, b1 = w.W1[..., rows, :, :, :], w.b1[..., rows, :, :, :]
        *lead, layers, heads, dim, _ = W1.shape
        if (heads, dim) != (self.heads, self.dim):
            raise RuntimeError(
                f"W has heads {heads} of width {dim}, the model {self.heads} of {self.dim}"
            )
        block = W1.new_zeros(*lead, layers, heads, dim, heads, dim)
        block.diagonal(dim1=-4, dim2=-2).copy_(W1.movedim(-3, -1))
        through = self.q_LDD @ block.reshape(*lead, layers, heads * dim, heads * dim)
        weight = torch.cat([self.q_LDD.expand_as(through), through], dim=-1)
        bias = b1.reshape(*lead, layers, 1, heads * dim)
        bias = torch.cat([self.shift_L1D.expand_as(bias), bias], dim=-1)
        if not lead:
            return list(zip(weight.unbind(0), bias[:, 0].unbind(0), strict=True))
        return list(zip(weight.unbind(1), bias.unbind(1), strict=True))

    def add(self, stream_R2D: Tensor, index: int, w: FoldedW) -> Tensor:
        """The stream after layer `index` of the TTT layers."""
        weight, bias = w
        width = stream_R2D.shape[1] // 2
        x_RD = stream_R2D[:, :width]
        if weight.dim() == 2:
            both = torch.addmm(bias, x_RD, weight)
        else:
            both = torch.baddbmm(bias, x_RD.reshape(len(weight), -1, width), weight)
        both = both.view(-1, 2, self.heads, self.dim)
        normed = torch.layer_norm(both[:, 1], (self.dim,), None, None, 1e-6)
        out = torch.addcmul(both[:, 0], normed, self.scale_Lhd[index]).view(-1, width)
        weight_D, bias_D, eps = self.post[index]
        out = torch.layer_norm(out, (width,), weight_D, bias_D, eps)
        return torch.addmm(stream_R2D, out, self.out[index])


@final
class FoldedLayer:
    """One Gemma block but for its TTT layer."""

    def __init__(self, layer: GemmaLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        norm = cast("GemmaRMSNorm", layer.input_layernorm)
        post = cast("GemmaRMSNorm", layer.post_attention_layernorm)
        self.eps = norm.eps
        dim = attention.head_dim
        q, k, v = (p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        self.dim, self.heads, self.kv_heads = dim, len(q) // dim, len(k) // dim
        q = q * attention.scaling
        turned = [_turned(q, dim), _turned(k, dim), torch.zeros_like(v)]
        self.qkv = (torch.cat([q, k, v, *turned]) * (1 + norm.weight)).t().contiguous()
        self.out = mirrored(attention.o_proj.weight)
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        self.gate_up = (gate_up * (1 + post.weight)).t().contiguous()
        self.down = mirrored(mlp.down_proj.weight)

    def project(self, stream_R2D: Tensor, rotary: Rotary) -> Tensor:
        """Rotated queries, then rotated keys, then values: [R, H + 2 v, e]."""
        both = torch.mm(rms_norm(stream_R2D, self.eps), self.qkv)
        both = both.view(len(both), 2, -1, self.dim)
        return torch.addcmul(both[:, 0] * rotary.cos, both[:, 1], rotary.sin)

    def store(self, qkv: Tensor, slot_B2vTe: Tensor) -> None:
        """Write keys and values into the cache."""
        batch, _, heads, tokens, dim = slot_B2vTe.shape
        kv = qkv[:, self.heads :].view(batch, tokens, 2, heads, dim)
        slot_B2vTe.copy_(kv.permute(0, 2, 3, 1, 4))

    def attend(
        self, stream_R2D: Tensor, qkv: Tensor, cache_B2vKe: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The stream after attention. `bias` is [B, 1, T * n, K]: rows of one token together."""
        batch = len(cache_B2vKe)
        shape = (batch, -1, self.kv_heads, self.heads // self.kv_heads, self.dim)
        query = qkv[:, : self.heads].view(shape).transpose(1, 2)
        out = F.scaled_dot_product_attention(
            query.reshape(batch, self.kv_heads, -1, self.dim),
            cache_B2vKe[:, 0],
            cache_B2vKe[:, 1],
            bias,
            scale=1.0,
        )
        out = out.view(query.shape).transpose(1, 2).reshape(len(qkv), -1)
        return torch.addmm(stream_R2D, out, self.out)

    def feed(self, stream_R2D: Tensor) -> Tensor:
        """The stream after the MLP."""
        both = torch.mm(rms_norm(stream_R2D, self.eps), self.gate_up)
        gate, up = both.chunk(2, dim=1)
        return torch.addmm(stream_R2D, F.gelu(gate, approximate="tanh") * up, self.down)


def _turned(weight_oi: Tensor, dim: int) -> Tensor:
    """Weights whose product is `rotate_half` of the product with the given ones."""
    first, second = weight_oi.view(-1, 2, dim // 2, weight_oi.shape[1]).unbind(1)
    return torch.stack([-second, first], dim=1).view_as(weight_oi)


@final
class FoldedStack:
    """A Gemma stack without adaptive norms and without inner step; float32."""

    def __init__(self, stack: GemmaStack) -> None:
        blocks = cast("list[GemmaLayer]", list(stack.layers))
        self.layers = [FoldedLayer(block) for block in blocks]
        self._place = {index: place for place, index in enumerate(stack.ttt_rows)}
        self._rows = list(stack.ttt_rows.values())
        ttt = [cast("TTTLayer", blocks[index].ttt) for index in stack.ttt_rows]
        self.ttt = FoldedTTT(ttt) if ttt else None
        self.norm_scale_D = 1 + cast("GemmaRMSNorm", stack.norm).weight
        self.inverse_period = stack.rotary_emb.inv_freq
        first = self.layers[0]
        self.group = first.heads // first.kv_heads

    def rotary(self, positions_BT: Tensor) -> Rotary:
        """The tables of all layers for some tokens."""
        first = self.layers[0]
        angle = positions_BT.reshape(-1, 1, 1).float() * self.inverse_period
        angle = torch.cat([angle, angle], dim=-1)
        turned = angle.cos().expand(-1, first.heads + first.kv_heads, -1)
        cos = F.pad(turned, (0, 0, 0, first.kv_heads), value=1.0)
        return Rotary(cos, angle.sin())

    def bias(self, mask_BTK: Tensor) -> Tensor:
        """What attention adds to its scores, [B, 1, T * n, K]; True lets a token read a key."""
        bias = torch.zeros(mask_BTK.shape, device=mask_BTK.device)
        bias.masked_fill_(~mask_BTK, -torch.inf)
        return bias.repeat_interleave(self.group, dim=1)[:, None]

    def fold(self, w: FastWeights) -> list[FoldedW]:
        """W as the layers take it."""
        return [] if self.ttt is None else self.ttt.fold(w, self._rows)

    def run(
        self,
        stream_R2D: Tensor,
        rotary: Rotary,
        bias: Tensor,
        cache_LB2vKe: list[Tensor],
        w: list[FoldedW],
    ) -> Tensor:
        """All layers. The tokens' own keys and values are written at the end of the cache."""
        tokens = len(stream_R2D) // len(cache_LB2vKe[0])
        for index, (layer, cache) in enumerate(zip(self.layers, cache_LB2vKe, strict=True)):
            qkv = layer.project(stream_R2D, rotary)
            layer.store(qkv, cache[..., -tokens:, :])
            stream_R2D = layer.attend(stream_R2D, qkv, cache, bias)
            place = self._place.get(index)
            if place is not None and self.ttt is not None:
                stream_R2D = self.ttt.add(stream_R2D, place, w[place])
            stream_R2D = layer.feed(stream_R2D)
        return stream_R2D

    def fill(
        self, stream_R2D: Tensor, rotary: Rotary, bias: Tensor, cache_LB2vKe: list[Tensor]
    ) -> None:
        """Only the keys and values of every layer, as `GemmaStack.key_values`."""
        *most, last = self.layers
        for layer, cache in zip(most, cache_LB2vKe, strict=False):
            qkv = layer.project(stream_R2D, rotary)
            layer.store(qkv, cache)
            stream_R2D = layer.feed(layer.attend(stream_R2D, qkv, cache, bias))
        last.store(last.project(stream_R2D, rotary), cache_LB2vKe[-1])
