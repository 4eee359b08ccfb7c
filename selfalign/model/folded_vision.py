"""The vision tower of a small frozen model with its constants folded in: as folded.py does.

Shape key: M images, p patches, R = M * p rows, V tower width, I tokens, D prefix width, F features.
"""

from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from selfalign.model.vision import VisionTower, merge_patches


@final
class FoldedVision:
    """Images to prefix tokens and features, the numbers of `VisionTower`."""

    def __init__(self, vision: VisionTower) -> None:
        tower = vision.tower
        embeddings = tower.embeddings
        self.vision = vision
        self.patch = vision.config.patch_size
        self.patches = embeddings.patch_embedding.weight.flatten(1).t().contiguous()
        offset_V = cast("Tensor", embeddings.patch_embedding.bias)
        self.place_pV = embeddings.position_embedding.weight + offset_V
        layers = cast("list[SiglipEncoderLayer]", list(tower.encoder.layers))
        self.layers = [_FoldedLayer(layer) for layer in layers]

    def __call__(self, images_M3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens [M, I, D] and features [M, F]."""
        count, _, size, _ = images_M3SS.shape
        side, patch = size // self.patch, self.patch
        pixels = images_M3SS.view(count, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
        x = torch.mm(pixels.reshape(count * side * side, -1), self.patches)
        x = (x.view(count, side * side, -1) + self.place_pV).view(count * side * side, -1)
        for layer in self.layers:
            x = layer(x, count)
        tokens = self.vision.tower.post_layernorm(x).view(count, side * side, -1)
        tokens = merge_patches(tokens, self.vision.config.token_merge)
        return self.vision.projector(tokens), self.vision.readout(tokens)


@final
class _FoldedLayer:
    def __init__(self, layer: SiglipEncoderLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.qkv_bias = _after_norm(
            layer.layer_norm1,
            torch.cat([p.weight for p in parts]),
            torch.cat([p.bias for p in parts]),
        )
        self.fc1, self.fc1_bias = _after_norm(layer.layer_norm2, mlp.fc1.weight, mlp.fc1.bias)
        self.out, self.out_bias = (
            attention.out_proj.weight.t().contiguous(),
            attention.out_proj.bias,
        )
        self.fc2, self.fc2_bias = mlp.fc2.weight.t().contiguous(), mlp.fc2.bias
        self.eps = layer.layer_norm1.eps

    def __call__(self, x_RV: Tensor, images: int) -> Tensor:
        width = x_RV.shape[1]
        normed = torch.layer_norm(x_RV, (width,), None, None, self.eps)
        qkv = torch.addmm(self.qkv_bias, normed, self.qkv)
        q, k, v = qkv.view(images, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        x_RV = torch.addmm(x_RV + self.out_bias, out.transpose(1, 2).reshape(x_RV.shape), self.out)
        normed = torch.layer_norm(x_RV, (width,), None, None, self.eps)
        hidden = F.gelu(torch.addmm(self.fc1_bias, normed, self.fc1), approximate="tanh")
        return torch.addmm(x_RV + self.fc2_bias, hidden, self.fc2)


def _after_norm(norm: nn.LayerNorm, weight_oi: Tensor, bias_o: Tensor) -> tuple[Tensor, Tensor]:
    """The weights [i, o] and bias of a product whose input was normed without scale and shift."""
    # A sum, not a product: its rounding does not depend on where a file's mapping put the weights.
    shift_o = (weight_oi * norm.bias).sum(1)
    return (weight_oi * norm.weight).t().contiguous(), bias_o + shift_o
