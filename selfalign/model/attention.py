"""Attention without gradients, the fastest way that a processor has.

PyTorch's fused attention runs on a CPU in bfloat16 at half the speed of the products it consists
of. There it is written out, with scores and softmax as openpi has them: products in bfloat16, the
softmax in float32.

Shape key: B batch, h heads, R rows (queries), K keys, e head width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Scores of more rows do not stay in the caches.
_ROWS = 2048


def attention(
    query_BhRe: Tensor, key_BhKe: Tensor, value_BhKe: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """What each row reads, [B, h, R, e]. `bias` is added to the scores: [B, 1, R or 1, K]."""
    if query_BhRe.device.type != "cpu" or query_BhRe.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query_BhRe, key_BhKe, value_BhKe, bias, scale=scale)
    return by_products(query_BhRe, key_BhKe, value_BhKe, bias, scale)


def by_products(
    query_BhRe: Tensor, key_BhKe: Tensor, value_BhKe: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """The same, written out."""
    parts: list[Tensor] = []
    for first in range(0, query_BhRe.shape[2], _ROWS):
        rows = slice(first, first + _ROWS)
        scores = (query_BhRe[:, :, rows] @ key_BhKe.transpose(-1, -2)).float() * scale
        if bias is not None:
            scores = scores + (bias if bias.shape[2] == 1 else bias[:, :, rows])
        parts.append(scores.softmax(-1).to(value_BhKe.dtype) @ value_BhKe)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
