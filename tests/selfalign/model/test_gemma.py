"""Our stack of Gemma blocks against the stock model and plain references."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GemmaModel

from selfalign.model.config import StackConfig, TTTConfig
from selfalign.model.gemma import (
    AdaRMSNorm,
    GemmaStack,
    eager_attention,
    fused_attention,
    gemma_config,
)
from selfalign.model.weights import FastWeights
from tests.fakes.models import random_numbers

CONFIG = StackConfig(width=24, depth=3, mlp_dim=40, heads=4, kv_heads=2, head_dim=6)


def make_stack(config: StackConfig = CONFIG, **extra: Any) -> GemmaStack:
    stack = GemmaStack(config, **extra)
    for index, parameter in enumerate(stack.parameters()):
        parameter.data = random_numbers(*parameter.shape, seed=index) * 0.3
    return stack


def block_mask(tokens: int) -> Tensor:
    """A mask that is neither causal nor full: token t sees s unless s is just behind it."""
    t = torch.arange(tokens)
    return (t[:, None] - t[None]) != 1


@pytest.mark.parametrize("eager", [False, True])
def test_stack_equals_the_stock_model_on_the_same_weights(eager: bool) -> None:
    stack = make_stack()
    stack.use_eager_attention(eager)
    stock = GemmaModel(gemma_config(CONFIG))
    missing, unexpected = stock.load_state_dict(stack.state_dict(), strict=False)
    assert missing == ["embed_tokens.weight"]
    assert unexpected == []
    x, mask = random_numbers(2, 7, 24), block_mask(7).expand(2, -1, -1)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [3, 3, 4, 9, 9, 10, 11]])

    ours = stack(x, positions, mask).hidden

    additive = torch.zeros(2, 1, 7, 7).masked_fill(~mask[:, None], torch.finfo(torch.float32).min)
    theirs = stock(
        inputs_embeds=x, attention_mask=additive, position_ids=positions, use_cache=False
    ).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
def test_eager_and_fused_attention_agree_in_values_and_gradients(heads: int, kv_heads: int) -> None:
    q = random_numbers(2, heads, 5, 8, seed=1).requires_grad_()
    k = random_numbers(2, kv_heads, 7, 8, seed=2).requires_grad_()
    v = random_numbers(2, kv_heads, 7, 8, seed=3).requires_grad_()
    mask = random_numbers(2, 1, 5, 7, seed=4) > 0
    mask[..., 0] = True
    results = []
    for attend in (eager_attention, fused_attention):
        out = attend(q, k, v, mask, 0.3)
        results.append([out, *torch.autograd.grad(out.square().sum(), [q, k, v])])
    for eager, fused in zip(*results, strict=True):
        torch.testing.assert_close(eager, fused, rtol=1e-4, atol=1e-5)


def test_key_values_are_those_of_the_whole_pass() -> None:
    stack = make_stack()
    x, mask = random_numbers(2, 5, 24), torch.ones(2, 5, 5, dtype=torch.bool)
    positions = torch.arange(5).expand(2, -1)
    for short, whole in zip(
        stack.key_values(x, positions, mask), stack(x, positions, mask).key_values, strict=True
    ):
        assert torch.equal(short[0], whole[0])
        assert torch.equal(short[1], whole[1])


def test_prefix_is_read_and_not_written() -> None:
    stack = make_stack()
    full = torch.ones(1, 3, 3, dtype=torch.bool)
    prefix = stack.key_values(random_numbers(1, 3, 24), torch.arange(3)[None], full)
    before = [(k.clone(), v.clone()) for k, v in prefix]
    mask = torch.ones(1, 2, 5, dtype=torch.bool)

    first = stack(random_numbers(1, 2, 24), torch.tensor([[3, 4]]), mask, prefix=prefix).hidden
    second = stack(random_numbers(1, 2, 24), torch.tensor([[3, 4]]), mask, prefix=prefix).hidden

    assert torch.equal(first, second)
    for (k, v), (k_before, v_before) in zip(prefix, before, strict=True):
        assert torch.equal(k, k_before)
        assert torch.equal(v, v_before)


def test_adaptive_norm_equals_a_plain_reference() -> None:
    norm = AdaRMSNorm(6, 4)
    norm.dense.weight.data, norm.dense.bias.data = random_numbers(18, 4), random_numbers(18, seed=1)
    x, condition = random_numbers(2, 3, 6, seed=2), random_numbers(2, 4, seed=3)

    out, gate = norm(x, condition)

    for b in range(2):
        scale, shift, expected_gate = (norm.dense.weight @ condition[b] + norm.dense.bias).split(6)
        torch.testing.assert_close(gate[b, 0], expected_gate)
        for t in range(3):
            rms = (x[b, t].pow(2).sum() / 6 + 1e-6) ** 0.5
            torch.testing.assert_close(out[b, t], x[b, t] / rms * (1 + scale) + shift)


def test_fresh_adaptive_norm_is_a_plain_norm_with_closed_gate() -> None:
    norm = AdaRMSNorm(6, 4)
    x = random_numbers(1, 2, 6)
    out, gate = norm(x, random_numbers(1, 4))
    torch.testing.assert_close(out.square().mean(-1), torch.ones(1, 2), rtol=1e-4, atol=1e-4)
    assert not gate.any()


def test_initialisation_scales_every_plain_layer_and_leaves_adaptive_norms_at_zero() -> None:
    torch.manual_seed(0)
    # mlp_dim is three times the width: such layers look like adaptive norms by their shape.
    config = StackConfig(width=64, depth=1, mlp_dim=192, heads=4, kv_heads=2, head_dim=16)
    stack = GemmaStack(config, condition_width=64)
    layer = stack.layers[0]
    for linear in (layer.mlp.gate_proj, layer.mlp.down_proj, layer.self_attn.q_proj):
        assert float(linear.weight.detach().std()) == pytest.approx(
            linear.in_features**-0.5, rel=0.1
        )
    assert not layer.input_layernorm.dense.weight.any()


@pytest.mark.parametrize("condition_width", [None, 5])
def test_gradient_checkpointing_gives_equal_gradients(condition_width: int | None) -> None:
    stack = make_stack(ttt=TTTConfig(heads=2), ttt_layers=(0, 2), condition_width=condition_width)
    condition = None if condition_width is None else random_numbers(2, condition_width)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    results = []
    for enabled in (False, True):
        stack.gradient_checkpointing = enabled
        w = FastWeights(
            random_numbers(2, 2, 12, 12).requires_grad_(),
            random_numbers(2, 2, 1, 12).requires_grad_(),
            (0, 2),
        )
        out = stack(
            random_numbers(2, 4, 24),
            torch.arange(4).expand(2, -1),
            mask,
            condition_BC=condition,
            w=w,
        ).hidden
        leaves = [w.W1, w.b1, *stack.parameters()]
        results.append(torch.autograd.grad(out.square().sum(), leaves))
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_without_w_the_layers_skip_their_ttt() -> None:
    with_ttt = make_stack(ttt=TTTConfig(heads=2), ttt_layers=(1,))
    without = make_stack()
    without.load_state_dict(with_ttt.state_dict(), strict=False)
    x, mask = random_numbers(1, 3, 24), torch.ones(1, 3, 3, dtype=torch.bool)
    positions = torch.arange(3)[None]
    assert torch.equal(with_ttt(x, positions, mask).hidden, without(x, positions, mask).hidden)


def test_each_ttt_layer_uses_its_own_entry_of_w() -> None:
    stack = make_stack(ttt=TTTConfig(heads=2), ttt_layers=(2, 0))
    x, mask = random_numbers(1, 3, 24), torch.ones(1, 3, 3, dtype=torch.bool)
    W1, b1 = random_numbers(2, 2, 12, 12), random_numbers(2, 2, 1, 12, seed=1)
    positions = torch.arange(3)[None]
    one = stack(x, positions, mask, w=FastWeights(W1, b1, (2, 0))).hidden
    swapped = stack(x, positions, mask, w=FastWeights(W1.flip(0), b1.flip(0), (2, 0))).hidden
    assert not torch.allclose(one, swapped, atol=1e-3)
