"""The TTT layer against a slow reference: loops over samples, heads and tokens, autograd inside."""

import pytest
import torch
from torch import Tensor

from selfalign.model.config import TTTConfig
from selfalign.model.ttt import (
    TTTLayer,
    apply_weights,
    group_rows,
    head_norm,
    head_norm_l2_gradient,
    identity_gate,
    ungroup_rows,
)
from tests.fakes.models import random_numbers

# Batch, tokens, heads, head width: ones, primes, more heads than tokens.
SHAPES = [(1, 1, 1, 2), (2, 5, 3, 4), (3, 7, 2, 5), (4, 3, 4, 3)]
# float32 sums of a few dozen terms in another order.
TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}


def make_layer(heads: int, dim: int, *, inner_step: bool, inner_rate: float = 1.0) -> TTTLayer:
    torch.manual_seed(3)
    layer = TTTLayer(
        heads * dim, TTTConfig(heads=heads, inner_step=inner_step, inner_rate=inner_rate)
    )
    for index, parameter in enumerate(layer.parameters()):
        parameter.data = random_numbers(*parameter.shape, seed=index) * 0.4
    return layer


def make_w(heads: int, dim: int, *lead: int) -> tuple[Tensor, Tensor]:
    W1 = random_numbers(*lead, heads, dim, dim, seed=20) * 0.5
    b1 = random_numbers(*lead, heads, 1, dim, seed=21) * 0.5
    return W1.requires_grad_(), b1.requires_grad_()


def slow_norm(row: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    centred = row - row.mean()
    return centred / torch.sqrt(centred.pow(2).mean() + 1e-6) * scale + shift


def slow_inner_step(
    layer: TTTLayer, x_TD: Tensor, head: int, W: Tensor, b: Tensor, visible: list[int]
) -> tuple[Tensor, Tensor]:
    """W and b after one step of plain gradient descent on the reconstruction loss (primal form)."""
    part = slice(head * layer.dim, (head + 1) * layer.dim)
    loss = x_TD.new_zeros(())
    for s in visible:
        k = layer.k_proj.weight[part] @ x_TD[s]
        v = layer.v_proj.weight[part] @ x_TD[s]
        rate = torch.sigmoid(layer.rate_weight[head] @ x_TD[s] + layer.rate_bias[head])
        eta = layer.inner_rate * rate / (layer.dim * len(x_TD))
        seen = slow_norm(k @ W + b, layer.norm_weight[head], layer.norm_bias[head])
        # Each token's rate multiplies its loss, so that one gradient of the sum is the whole step.
        loss = loss + eta * 0.5 * (seen - (v - k)).pow(2).sum()
    step_W, step_b = torch.autograd.grad(loss, [W, b], create_graph=True)
    return W - step_W, b - step_b


def slow_ttt(
    layer: TTTLayer, x_BTD: Tensor, W1: Tensor, b1: Tensor, mask_TT: Tensor | None = None
) -> Tensor:
    """One sample, one token, one head at a time. W1 is [B, h, d, d] here: one for each sample."""
    out = []
    for x_TD, W_h, b_h in zip(x_BTD, W1, b1, strict=True):
        rows = []
        for t in range(len(x_TD)):
            visible = [s for s in range(len(x_TD)) if mask_TT is None or mask_TT[t, s]]
            parts = []
            for head in range(layer.heads):
                W, b = W_h[head], b_h[head, 0]
                if layer.inner_step:
                    W, b = slow_inner_step(layer, x_TD, head, W, b, visible)
                part = slice(head * layer.dim, (head + 1) * layer.dim)
                q = layer.q_proj.weight[part] @ x_TD[t]
                parts.append(
                    q + slow_norm(q @ W + b, layer.norm_weight[head], layer.norm_bias[head])
                )
            joined = torch.cat(parts)
            normed = slow_norm(joined, layer.post_norm.weight, layer.post_norm.bias)
            rows.append(x_TD[t] + torch.tanh(layer.gate) * (layer.o_proj.weight @ normed))
        out.append(torch.stack(rows))
    return torch.stack(out)


def gradients(out: Tensor, layer: TTTLayer, *inputs: Tensor) -> list[Tensor]:
    weights = random_numbers(*out.shape, seed=40)
    return list(torch.autograd.grad((out * weights).sum(), [*inputs, *layer.parameters()]))


@pytest.mark.parametrize("inner_step", [False, True])
@pytest.mark.parametrize(("batch", "tokens", "heads", "dim"), SHAPES)
def test_values_and_gradients_match_the_slow_reference(
    batch: int, tokens: int, heads: int, dim: int, inner_step: bool
) -> None:
    layer = make_layer(heads, dim, inner_step=inner_step)
    x = random_numbers(batch, tokens, heads * dim).requires_grad_()
    W1, b1 = make_w(heads, dim)

    fast = layer(x, W1, b1)
    slow = slow_ttt(layer, x, W1.expand(batch, -1, -1, -1), b1.expand(batch, -1, -1, -1))

    torch.testing.assert_close(fast, slow, **TOLERANCE)
    for got, expected in zip(
        gradients(fast, layer, x, W1, b1), gradients(slow, layer, x, W1, b1), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-4)


def test_masked_inner_step_matches_the_slow_reference() -> None:
    layer = make_layer(2, 3, inner_step=True, inner_rate=5.0)
    x = random_numbers(2, 5, 6)
    W1, b1 = make_w(2, 3)
    group = torch.tensor([0, 1, 1, 2, 2])
    mask = group[:, None] == group[None]

    fast = layer(x, W1, b1, mask.expand(2, -1, -1))

    slow = slow_ttt(layer, x, W1.expand(2, -1, -1, -1), b1.expand(2, -1, -1, -1), mask)
    torch.testing.assert_close(fast, slow, **TOLERANCE)
    assert not torch.allclose(fast, layer(x, W1, b1), atol=1e-3)


@pytest.mark.parametrize("inner_step", [False, True])
@pytest.mark.parametrize(("groups", "each"), [(1, 4), (4, 1), (2, 3)])
def test_grouped_w_equals_a_loop_over_w(groups: int, each: int, inner_step: bool) -> None:
    layer = make_layer(3, 4, inner_step=inner_step)
    x = random_numbers(groups * each, 5, 12)
    W1, b1 = make_w(3, 4, groups)

    together = layer(x, W1, b1)

    one_by_one = torch.cat([layer(part, W1[g], b1[g]) for g, part in enumerate(x.split(each))])
    torch.testing.assert_close(together, one_by_one, **TOLERANCE)


def test_samples_that_w_cannot_share_evenly_are_refused() -> None:
    layer = make_layer(1, 2, inner_step=False)
    W1, b1 = make_w(1, 2, 2)
    with pytest.raises(ValueError, match="3 samples cannot share 2 W"):
        layer(random_numbers(3, 1, 2), W1, b1)


def test_grouping_is_undone_by_ungrouping() -> None:
    x = random_numbers(6, 2, 3, 5)
    assert torch.equal(ungroup_rows(group_rows(x, 3), 6), x)


@pytest.mark.parametrize("inner_step", [False, True])
def test_closed_gate_is_the_identity_bit_for_bit(inner_step: bool) -> None:
    layer = make_layer(2, 4, inner_step=inner_step)
    identity_gate(layer)
    x = random_numbers(3, 5, 8)
    assert torch.equal(layer(x, *make_w(2, 4)), x)


def test_zero_output_projection_is_the_identity_bit_for_bit() -> None:
    layer = make_layer(2, 4, inner_step=False)
    layer.o_proj.weight.data.zero_()
    x = random_numbers(3, 5, 8)
    assert torch.equal(layer(x, *make_w(2, 4)), x)


@pytest.mark.parametrize(("heads", "tokens", "dim"), [(1, 1, 2), (3, 5, 7), (2, 4, 64)])
def test_norm_gradient_in_closed_form_equals_autograd(heads: int, tokens: int, dim: int) -> None:
    z = random_numbers(2, heads, tokens, dim, seed=1).requires_grad_()
    target = random_numbers(2, heads, tokens, dim, seed=2)
    scale, shift = random_numbers(heads, dim, seed=3), random_numbers(heads, dim, seed=4)

    loss = 0.5 * (head_norm(z, scale, shift) - target).square().sum()

    (expected,) = torch.autograd.grad(loss, z)
    got = head_norm_l2_gradient(z, target, scale, shift)
    # The closed form takes 1/std for a constant row; two equal numbers have std 1e-3 at least.
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_head_norm_equals_layer_norm_for_unit_scale() -> None:
    x = random_numbers(2, 3, 5, 8)
    got = head_norm(x, torch.ones(3, 8), torch.zeros(3, 8))
    torch.testing.assert_close(got, torch.nn.functional.layer_norm(x, (8,), eps=1e-6))


def test_fast_weights_act_in_float32_on_half_precision_tokens() -> None:
    x = random_numbers(1, 1, 2, 4).bfloat16()
    W1 = torch.eye(4)[None] * (1 + 2**-12)  # rounds to the identity in bfloat16
    out = apply_weights(x, W1, torch.zeros(1, 1, 4))
    assert out.dtype == torch.float32
    assert torch.equal(out, x.float() * (1 + 2**-12))
