"""Attention without gradients, the fastest way that a processor has.

PyTorch's fused attention runs on a CPU in bfloat16 at half the speed of the products it consists
of. There it is written out, with scores and softmax as openpi has them: products in bfloat16, the
softmax in float32 (within the operation: only its results are rounded).

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
    """The same, written out, for one sample after the other: scores take little memory."""
    out_BhRe, nothing = torch.empty_like(query_BhRe), query_BhRe.new_zeros(1)
    for sample in range(len(query_BhRe)):
        key_heK, value_hKe = key_BhKe[sample].transpose(-1, -2), value_BhKe[sample]
        for first in range(0, query_BhRe.shape[2], _ROWS):
            rows = slice(first, first + _ROWS)
            query_hRe = query_BhRe[sample, :, rows]
            shape = (*query_hRe.shape[:2], key_heK.shape[-1])
            scores_hRK = torch.baddbmm(
                nothing.expand(shape), query_hRe, key_heK, beta=0, alpha=scale
            )
            if bias is not None:
                one = bias[sample]
                scores_hRK += one if one.shape[1] == 1 else one[:, rows]
            out_BhRe[sample, :, rows] = scores_hRK.softmax(-1) @ value_hKe
    return out_BhRe
