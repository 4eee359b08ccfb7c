"""The test-time-training layer of the action expert, and its fast path.

Shape key: B batch, T tokens, D width, G groups that share one W, N = B / G, h heads, d = D / h.

The layer is h <- h + tanh(alpha) * o_proj(post_norm(Q + LN(Q W1 + b1))), where W1, b1 are
arguments. With `inner_step` the layer first takes one gradient step of its own on W1 and b1 (the
dual form of TTT-Linear, Sun et al. 2024, arXiv 2407.04620, all tokens one mini-batch) to
reconstruct V - K from K; the result lives for this call only. A token takes its step on the tokens
that it may attend to, no others: else the inner step would leak where attention is masked.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import final

import torch
from torch import Tensor, nn

from selfalign.model.config import TTTConfig

_EPS = 1e-6


def group_rows(x_BhTd: Tensor, groups: int) -> Tensor:
    """[B, h, T, d] to [G, h, N * T, d]: the rows that one W acts on stand together."""
    batch, heads, tokens, dim = x_BhTd.shape
    if batch % groups:
        raise ValueError(f"a batch of {batch} samples cannot share {groups} W evenly")
    x = x_BhTd.reshape(groups, batch // groups, heads, tokens, dim).transpose(1, 2)
    return x.reshape(groups, heads, -1, dim)


def ungroup_rows(x_GhRd: Tensor, batch: int) -> Tensor:
    """The inverse of `group_rows`: [G, h, N * T, d] to [B, h, T, d]."""
    groups, heads, rows, dim = x_GhRd.shape
    per_group = batch // groups
    x = x_GhRd.reshape(groups, heads, per_group, rows // per_group, dim).transpose(1, 2)
    return x.reshape(batch, heads, rows // per_group, dim)


def head_norm(x: Tensor, scale_hd: Tensor, shift_hd: Tensor) -> Tensor:
    """LayerNorm over the last axis with a scale and a shift of every head: [..., h, T, d]."""
    centred = x - x.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + _EPS)
    return normed * scale_hd[:, None, :] + shift_hd[:, None, :]


def head_norm_l2_gradient(z: Tensor, target: Tensor, scale_hd: Tensor, shift_hd: Tensor) -> Tensor:
    """Gradient of 0.5 * ||head_norm(z) - target||^2 with respect to z, in closed form."""
    dim = z.shape[-1]
    centred = z - z.mean(-1, keepdim=True)
    std = torch.sqrt(centred.square().mean(-1, keepdim=True) + _EPS)
    x_hat = centred / std
    error = (x_hat * scale_hd[:, None, :] + shift_hd[:, None, :] - target) * scale_hd[:, None, :]
    total = error.sum(-1, keepdim=True)
    along = x_hat * (error * x_hat).sum(-1, keepdim=True)
    return (dim * error - total - along) / (dim * std)


@final
class TTTLayer(nn.Module):
    """One TTT layer without its W: projections, norms and gate, which stay frozen on the robot."""

    def __init__(self, width: int, config: TTTConfig) -> None:
        super().__init__()
        self.heads, self.dim = config.heads, width // config.heads
        self.inner_rate = config.inner_rate
        self.inner_step = config.inner_step
        self.q_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.norm_weight = nn.Parameter(torch.ones(self.heads, self.dim))
        self.norm_bias = nn.Parameter(torch.zeros(self.heads, self.dim))
        self.post_norm = nn.LayerNorm(width, eps=_EPS)
        self.gate = nn.Parameter(torch.full((width,), float(config.gate_init)))
        if self.inner_step:
            self.k_proj = nn.Linear(width, width, bias=False)
            self.v_proj = nn.Linear(width, width, bias=False)
            self.rate_weight = nn.Parameter(torch.randn(self.heads, width) * 0.02)
            self.rate_bias = nn.Parameter(torch.zeros(self.heads))

    def forward(
        self, x_BTD: Tensor, W1: Tensor, b1: Tensor, mask_BTT: Tensor | None = None
    ) -> Tensor:
        """x + tanh(gate) * TTT(x).

        Args:
            x_BTD: the residual stream.
            W1: [h, d, d], or [G, h, d, d].
            b1: [h, 1, d], or [G, h, 1, d].
            mask_BTT: True where token t may take its inner step on token s; None: everywhere.
        """
        q_BhTd = self._heads(self.q_proj(x_BTD))
        if self.inner_step:
            z_BhTd = self._after_inner_step(x_BTD, q_BhTd, W1, b1, mask_BTT)
        else:
            z_BhTd = apply_weights(q_BhTd, W1, b1)
        out_BhTd = q_BhTd + head_norm(z_BhTd, self.norm_weight, self.norm_bias).type_as(q_BhTd)
        out_BTD = self.post_norm(out_BhTd.transpose(1, 2).flatten(2))
        return x_BTD + torch.tanh(self.gate) * self.o_proj(out_BTD)

    def _after_inner_step(
        self, x_BTD: Tensor, q_BhTd: Tensor, W1: Tensor, b1: Tensor, mask_BTT: Tensor | None
    ) -> Tensor:
        """Q W1' + b1' with W1', b1' one inner step from W1, b1, without forming W1' (dual form)."""
        k_BhTd = self._heads(self.k_proj(x_BTD))
        v_BhTd = self._heads(self.v_proj(x_BTD))
        logits_BhT = torch.einsum("btd,hd->bht", x_BTD, self.rate_weight) + self.rate_bias[:, None]
        eta_BhT1 = (self.inner_rate / (self.dim * x_BTD.shape[1])) * logits_BhT.sigmoid()[..., None]
        z_k = apply_weights(k_BhTd, W1, b1)
        grad = eta_BhT1 * head_norm_l2_gradient(
            z_k, v_BhTd - k_BhTd, self.norm_weight, self.norm_bias
        )
        # b1 is the weight of an input that is always 1: hence the 1 added to every score.
        with _without_autocast(x_BTD.device.type):
            scores_BhTT = q_BhTd.float() @ k_BhTd.float().transpose(-1, -2) + 1
            if mask_BTT is not None:
                scores_BhTT = scores_BhTT * mask_BTT[:, None]
            return apply_weights(q_BhTd, W1, b1) - scores_BhTT @ grad

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.heads, self.dim)).transpose(1, 2)


def apply_weights(x_BhTd: Tensor, W1: Tensor, b1: Tensor) -> Tensor:
    """x W1 + b1 in float32, under autocast too, where W1 may be one per group of samples."""
    with _without_autocast(x_BhTd.device.type):
        x = x_BhTd.float()
        if W1.dim() == 3:
            return x @ W1 + b1
        return ungroup_rows(group_rows(x, W1.shape[0]) @ W1 + b1, x.shape[0])


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Autocast switched off, where it is on; the meta device knows none."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def identity_gate(layer: TTTLayer) -> None:
    """Close the gate of a layer, so that a loaded checkpoint acts as if it had none."""
    with torch.no_grad():
        layer.gate.zero_()


__all__ = [
    "TTTLayer",
    "apply_weights",
    "group_rows",
    "head_norm",
    "head_norm_l2_gradient",
    "identity_gate",
    "ungroup_rows",
]
