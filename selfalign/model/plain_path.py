"""The act path of a model of any size: the stock modules' weights as they are, no copies.

Prefix keys and values are copied once a chunk into a buffer with room for the tokens of the action
expert; every step writes its own keys and values at the end of it. Rotary tables, masks, the state
token and everything that depends on the time alone are computed once.

Shape key: B batch, P prefix tokens, T tokens of the pass, K = P + T, H heads, v key-value heads,
n = H / v, e head width, D width, C condition width, L layers, M images, I image tokens, A actions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm, rotate_half
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from selfalign.model.attention import attention
from selfalign.model.gemma import AdaRMSNorm, GemmaLayer, GemmaStack, KeyValue
from selfalign.model.prefix import Prefix, padded, token_mask_and_positions
from selfalign.model.products import product, product_gelu, product_plus, product_times
from selfalign.model.vision import VisionTower, merge_patches
from selfalign.model.weights import FastWeights

if TYPE_CHECKING:
    from selfalign.model.policy import Policy

Denoiser = Callable[[Tensor, float], Tensor]
# 1 + scale, shift and gate of an adaptive norm at one time, [D] each; None for other norms.
Modulation = tuple[Tensor, Tensor, Tensor] | None


def with_room(prefix: Prefix, tokens: int, dtype: torch.dtype) -> Tensor:
    """Keys and values of the prefix and room for more tokens: [B, L, 2, v, P + tokens, e]."""
    *shape, length, dim = prefix.key_values.shape
    out = prefix.key_values.new_empty(*shape, length + tokens, dim, dtype=dtype)
    out[..., :length, :].copy_(prefix.key_values)
    return out


def own_mask(tokens: int, *, stateful: bool, device: torch.device) -> Tensor:
    """True where a token of the action expert may read another: bool [T, T].

    Actions read everything; the state token of pi0, which comes first, reads only itself.
    """
    mask = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    if stateful:
        mask[0, 1:] = False
    return mask


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where the mask is True, minus infinity elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


@final
@dataclass(frozen=True)
class Tables:
    """What all layers of a pass share: cos and sin [B, T, 1, e]; the bias of the scores.

    The bias is [B, 1, T * n, K] with the n heads of a token together, or [B, 1, 1, K]; `own` is
    bool [B, T, T], for TTT's inner step.
    """

    cos: Tensor
    sin: Tensor
    bias: Tensor
    own: Tensor | None = None


@final
class PlainLayer:
    """One Gemma block over a cache [B, 2, v, K, e], whose end is for the keys of the tokens."""

    def __init__(self, layer: GemmaLayer) -> None:
        self.layer = layer
        self.dim, self.scale = layer.self_attn.head_dim, layer.self_attn.scaling
        ttt = layer.ttt
        # A closed gate adds exactly zero.
        self.ttt = ttt if ttt is not None and bool(ttt.gate.any()) else None

    def __call__(
        self,
        x_BTD: Tensor,
        tables: Tables,
        cache_B2vKe: Tensor,
        modulations: tuple[Modulation, Modulation] = (None, None),
        fast: KeyValue | None = None,
    ) -> Tensor:
        """The residual stream after the block."""
        layer = self.layer
        normed = norm(layer.input_layernorm, x_BTD, modulations[0])
        self.store(normed, tables, cache_B2vKe)
        x_BTD = self._add(
            layer.self_attn.o_proj, self._attend(normed, tables, cache_B2vKe), x_BTD, modulations[0]
        )
        if self.ttt is not None and fast is not None:
            x_BTD = self.ttt(x_BTD, *fast, tables.own)
        mlp = layer.mlp
        normed = norm(layer.post_attention_layernorm, x_BTD, modulations[1])
        hidden = product_times(mlp.up_proj, normed, product_gelu(mlp.gate_proj, normed))
        return self._add(mlp.down_proj, hidden, x_BTD, modulations[1])

    def store(self, normed_BTD: Tensor, tables: Tables, cache_B2vKe: Tensor) -> None:
        """Write keys and values at the end of the cache."""
        own, tokens = self.layer.self_attn, normed_BTD.shape[1]
        key = turn(self._heads(product(own.k_proj, normed_BTD)), tables)
        value = self._heads(product(own.v_proj, normed_BTD))
        cache_B2vKe[:, 0, :, -tokens:].copy_(key.transpose(1, 2))
        cache_B2vKe[:, 1, :, -tokens:].copy_(value.transpose(1, 2))

    def _attend(self, normed_BTD: Tensor, tables: Tables, cache_B2vKe: Tensor) -> Tensor:
        """What the heads read, [B, T, H e]. The n heads that share a key stand as extra tokens."""
        batch, tokens, _ = normed_BTD.shape
        kv_heads = cache_B2vKe.shape[2]
        query = turn(self._heads(product(self.layer.self_attn.q_proj, normed_BTD)), tables)
        query = query.view(batch, tokens, kv_heads, -1, self.dim).transpose(1, 2)
        out = attention(
            query.reshape(batch, kv_heads, -1, self.dim),
            cache_B2vKe[:, 0],
            cache_B2vKe[:, 1],
            tables.bias,
            self.scale,
        )
        return out.view(query.shape).transpose(1, 2).reshape(batch, tokens, -1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.dim)

    @staticmethod
    def _add(linear: nn.Linear, hidden: Tensor, x: Tensor, modulation: Modulation) -> Tensor:
        if modulation is None:
            return product_plus(linear, hidden, x)
        return torch.addcmul(x, product(linear, hidden), modulation[2])


def turn(x_BTHe: Tensor, tables: Tables) -> Tensor:
    """The rotary embedding."""
    return torch.addcmul(x_BTHe * tables.cos, rotate_half(x_BTHe), tables.sin)


def norm(module: nn.Module, x: Tensor, modulation: Modulation) -> Tensor:
    """A Gemma norm in float32; an adaptive one takes what was computed for the time."""
    eps = cast("AdaRMSNorm | GemmaRMSNorm", module).eps
    if modulation is None:
        scale = 1 + cast("GemmaRMSNorm", module).weight.float()
        return F.rms_norm(x.float(), (x.shape[-1],), scale, eps).to(x.dtype)
    normed = F.rms_norm(x.float(), (x.shape[-1],), None, eps)
    return torch.addcmul(modulation[1], normed, modulation[0]).to(x.dtype)


@final
class PlainStack:
    """A Gemma stack over caches."""

    def __init__(self, stack: GemmaStack) -> None:
        self.stack = stack
        self.layers = [PlainLayer(layer) for layer in cast("list[GemmaLayer]", list(stack.layers))]
        attention = self.layers[0].layer.self_attn
        self.group: int = attention.num_key_value_groups
        self.dtype = attention.q_proj.weight.dtype

    def tables(
        self, like_BTD: Tensor, positions_BT: Tensor, bias: Tensor, own: Tensor | None = None
    ) -> Tables:
        """Tables for tokens at some positions; a bias [B, T, K] is repeated for the heads."""
        cos, sin = self.stack.rotary_emb(like_BTD, positions_BT)
        if bias.dim() == 3:
            bias = bias.repeat_interleave(self.group, dim=1)[:, None]
        return Tables(cos[:, :, None], sin[:, :, None], bias, own)

    def modulations(self, condition_C: Tensor) -> list[Modulation]:
        """Of the two norms of every layer in order, and of the last norm, at one time."""
        norms: list[nn.Module] = []
        for layer in self.layers:
            norms += [layer.layer.input_layernorm, layer.layer.post_attention_layernorm]
        return [
            _modulation(cast("AdaRMSNorm", module), condition_C, self.dtype)
            for module in (*norms, self.stack.norm)
        ]

    def run(
        self,
        x_BTD: Tensor,
        tables: Tables,
        caches: list[Tensor],
        modulations: list[Modulation] | None,
        fast: list[KeyValue | None],
    ) -> Tensor:
        """All layers and the last norm."""
        mods = modulations or [None] * (2 * len(self.layers) + 1)
        for index, layer in enumerate(self.layers):
            pair = (mods[2 * index], mods[2 * index + 1])
            x_BTD = layer(x_BTD, tables, caches[index], pair, fast[index])
        return norm(self.stack.norm, x_BTD, mods[-1])

    def fill(self, x_BTD: Tensor, tables: Tables, caches: list[Tensor]) -> None:
        """Only keys and values: skips what nothing reads in the last layer."""
        *most, last = self.layers
        for layer, cache in zip(most, caches, strict=False):
            x_BTD = layer(x_BTD, tables, cache)
        last.store(norm(last.layer.input_layernorm, x_BTD, None), tables, caches[-1])


def _modulation(module: AdaRMSNorm, condition_C: Tensor, dtype: torch.dtype) -> Modulation:
    numbers = F.linear(
        condition_C.to(module.dense.weight.dtype), module.dense.weight, module.dense.bias
    )
    scale, shift, gate = numbers.float().chunk(3)
    return 1 + scale, shift, gate.to(dtype)


@final
class PlainVision:
    """The tower without its per-call overhead: [M, 3, S, S] to tokens [M, I, D] and features."""

    def __init__(self, vision: VisionTower) -> None:
        self.vision = vision

    def __call__(self, images_M3SS: Tensor) -> tuple[Tensor, Tensor]:
        """As `VisionTower.forward`."""
        vision, tower = self.vision, self.vision.tower
        x = tower.embeddings(images_M3SS).to(vision.dtype)
        for layer in cast("list[SiglipEncoderLayer]", list(tower.encoder.layers)):
            own, mlp = layer.self_attn, layer.mlp
            normed = layer.layer_norm1(x)
            q, k, v = (
                product(p, normed).unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
                for p in (own.q_proj, own.k_proj, own.v_proj)
            )
            out = attention(q, k, v, None, own.scale)
            x = product_plus(own.out_proj, out.transpose(1, 2).flatten(2), x)
            x = product_plus(mlp.fc2, product_gelu(mlp.fc1, layer.layer_norm2(x)), x)
        tokens = merge_patches(tower.post_layernorm(x), vision.config.token_merge)
        return product(vision.projector, tokens), vision.readout(tokens)


Run = Callable[
    [Tensor, Tables, list[Tensor], list[Modulation] | None, list[KeyValue | None]], Tensor
]


@final
class PlainPath:
    """Prefix and denoiser of a model of any size."""

    def __init__(self, policy: "Policy") -> None:
        self.policy, self.config = policy, policy.config
        self.vision = PlainVision(policy.vision)
        self.language, self.action = PlainStack(policy.language), PlainStack(policy.action)
        # What `compile_parts` replaces, and the length that prompts are then padded to.
        self.see: Callable[[Tensor], tuple[Tensor, Tensor]] = self.vision.__call__
        self.fill: Callable[[Tensor, Tables, list[Tensor]], None] = self.language.fill
        self.run: Run = self.action.run
        self.prompt_tokens = 0
        self._times = {t: self._of_time(t) for t in policy.config.flow_times}

    def prefix(
        self, images_BN3SS: Tensor, image_mask_BN: Tensor, tokens_Bt: Tensor, token_mask_Bt: Tensor
    ) -> Prefix:
        """As `Policy.prefix`. A compiled path pads the prompt: its length is part of the shapes."""
        tokens_Bt, token_mask_Bt = padded(tokens_Bt, token_mask_Bt, self.prompt_tokens)
        policy, config = self.policy, self.config.language
        batch, cameras = image_mask_BN.shape
        per_camera = self.config.vision.tokens
        image_tokens, features = self.see(images_BN3SS.flatten(0, 1))
        x = policy.prefix_tokens(image_tokens.view(batch, -1, config.width), tokens_Bt)
        mask, positions = token_mask_and_positions(image_mask_BN, token_mask_Bt, per_camera)
        tables = self.language.tables(x, positions, additive(mask, x.dtype)[:, None, None])
        shape = (batch, config.depth, 2, config.kv_heads, x.shape[1], config.head_dim)
        key_values = x.new_empty(shape)
        self.fill(x, tables, list(key_values.unbind(1)))
        features = features.unflatten(0, (batch, cameras))
        return Prefix(key_values, mask, cameras * per_camera, features, image_mask_BN)

    def denoiser(self, prefix: Prefix, state_Bs: Tensor, w: FastWeights) -> Denoiser:
        """The action expert over one prefix, with one W."""
        policy, stateful = self.policy, self.config.flavour == "pi0"
        batch, tokens = len(prefix), self.config.horizon + stateful
        cache = with_room(prefix, tokens, policy.dtype)
        caches = list(cache.unbind(1))
        own = own_mask(tokens, stateful=stateful, device=cache.device).expand(batch, -1, -1)
        mask = torch.cat([prefix.mask[:, None].expand(-1, tokens, -1), own], dim=2)
        positions = prefix.lengths[:, None] + torch.arange(tokens, device=cache.device)
        tables = self.action.tables(cache, positions, additive(mask, policy.dtype), own)
        state = [policy.state_token(state_Bs)] if stateful else []
        fast = [policy.action.fast(index, w) for index in range(len(caches))]

        def denoise(x_BHA: Tensor, time: float) -> Tensor:
            of_time = self._times.get(time)
            bias, modulations = self._of_time(time) if of_time is None else of_time
            x = torch.cat([*state, self._embed(x_BHA, bias)], dim=1)
            x = self.run(x, tables, caches, modulations, fast)
            return policy.read_actions(x).to(x_BHA.dtype)

        return denoise

    def _embed(self, x_BHA: Tensor, bias_D: Tensor | None) -> Tensor:
        """Action tokens; `bias` is what pi0's time MLP adds for the time."""
        policy = self.policy
        x = policy.action_in_proj(x_BHA.to(policy.action_in_proj.weight.dtype))
        if bias_D is not None:
            weight = policy.action_time_mlp_in.weight[:, : x.shape[-1]]
            x = policy.action_time_mlp_out(F.silu(F.linear(x, weight, bias_D)))
        return x.to(policy.dtype)

    def _of_time(self, time: float) -> tuple[Tensor | None, list[Modulation] | None]:
        """What the time alone decides: the bias of pi0's time MLP, or pi0.5's modulations."""
        policy = self.policy
        at = torch.tensor([time], device=policy.device)
        embedded = policy.embed_time(at)
        if self.config.flavour == "pi05":
            return None, self.action.modulations(policy.time_condition(embedded)[0])
        mlp = policy.action_time_mlp_in
        weight = mlp.weight[:, embedded.shape[-1] :]
        return F.linear(embedded, weight, mlp.bias)[0], None
