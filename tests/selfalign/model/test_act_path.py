"""The fast path of a chunk computes what the stock modules compute."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from selfalign.model import flow
from selfalign.model.act_path import compile_parts
from selfalign.model.compiled import Compiled
from selfalign.model.keys import keeps_float32
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.model.products import product, product_gelu, product_plus, product_times
from selfalign.model.weights import FastWeights
from tests.fakes.models import (
    PROMPTS,
    random_images,
    random_numbers,
    random_policy,
    random_prefix,
    random_w,
)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal but for float32 sums in another order, over layers and steps."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def by_stock_modules(
    policy: Policy, prefix: Prefix, state: Tensor, w: FastWeights, noise: Tensor
) -> Tensor:
    """A chunk by `predict` alone."""
    config = policy.config
    return flow.sample(
        lambda x_t, time_B: policy.predict(prefix, state, x_t, time_B, w),
        noise,
        config.flow_steps,
        config.flow_target,
    )


@pytest.mark.parametrize("inner_step", [False, True])
@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
@pytest.mark.parametrize("groups", [None, 2])
def test_chunk_equals_that_of_the_stock_modules(
    flavour: Literal["pi0", "pi05"], groups: int | None, *, inner_step: bool
) -> None:
    policy = random_policy(flavour, inner_step=inner_step)
    prefix, w = random_prefix(policy, 4), random_w(policy, groups)
    state, noise = random_numbers(4, 32), random_numbers(4, 4, 32)
    chunk = policy.act(prefix, state, w, noise=noise)
    expected = by_stock_modules(policy, prefix, state, w, noise)
    assert_close(chunk, expected)


@pytest.mark.parametrize("batch", [1, 3, 9])
def test_prefix_equals_that_of_the_stock_modules(batch: int) -> None:
    policy = random_policy()
    images = random_images(batch, 2)
    mask = torch.tensor([[True, False]]).expand(batch, -1)
    tokens, token_mask = policy.prompts.encode([PROMPTS[i % len(PROMPTS)] for i in range(batch)])
    fast = policy.prefix(images, mask, tokens, token_mask)
    stock = policy.prefix(images.requires_grad_(), mask, tokens, token_mask)
    assert stock.key_values.requires_grad
    assert not fast.key_values.requires_grad
    for name in ("key_values", "features"):
        assert_close(getattr(fast, name), getattr(stock, name))
    assert torch.equal(fast.mask, stock.mask)
    assert fast.image_tokens == stock.image_tokens


@pytest.mark.parametrize("groups", [None, 3])
def test_large_batch_is_served_as_well(groups: int | None) -> None:
    policy = random_policy()
    prefix, w = random_prefix(policy, 9), random_w(policy, groups)
    state, noise = random_numbers(9, 32), random_numbers(9, 4, 32)
    chunk = policy.act(prefix, state, w, noise=noise)
    assert_close(chunk, by_stock_modules(policy, prefix, state, w, noise))


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_weights_in_the_mixed_precision_of_published_models(
    flavour: Literal["pi0", "pi05"],
) -> None:
    policy = random_policy(flavour)
    state, noise, w = random_numbers(2, 32), random_numbers(2, 4, 32), random_w(policy)
    full = policy.act(random_prefix(policy, 2), state, w, noise=noise)
    for name, parameter in policy.named_parameters():
        if not keeps_float32(name) and not name.startswith("w0_"):
            parameter.data = parameter.data.bfloat16()
    assert policy.dtype == torch.bfloat16
    assert policy.action_in_proj.weight.dtype == torch.float32
    prefix = random_prefix(policy, 2)
    assert prefix.key_values.dtype == torch.bfloat16
    mixed = policy.act(prefix, state, w, noise=noise)
    stock = by_stock_modules(policy, prefix, state, w, noise)
    # bfloat16 keeps 8 bits; the error grows over layers and steps.
    for other in (full, stock):
        assert float((mixed - other).abs().mean() / full.abs().mean()) < 0.1
    following = prefix.only_features()
    aligned = policy.alignment_pass(prefix, following, state, random_numbers(2, 2, 32), w)
    assert aligned.state.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_equal_linear_layers_and_what_follows_them(dtype: torch.dtype) -> None:
    linear = nn.Linear(512, 640).to(dtype)
    x, other = random_numbers(3, 512).to(dtype), random_numbers(3, 640, seed=1).to(dtype)

    def assert_same(actual: Tensor, expected: Tensor) -> None:
        assert actual.dtype == dtype
        # bfloat16 has eight bits; rounding once instead of twice moves the last one.
        near = 1e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(actual.float(), expected.float(), rtol=near, atol=near)

    with torch.no_grad():
        plain = linear(x)
        assert_same(product(linear, x), plain)
        assert_same(product_gelu(linear, x), nn.functional.gelu(plain, approximate="tanh"))
        assert_same(product_times(linear, x, other), plain * other)
        assert_same(product_plus(linear, x, other), plain + other)


def test_products_carry_gradients_where_they_are_asked_for() -> None:
    linear = nn.Linear(512, 640)
    x = random_numbers(3, 512).requires_grad_()
    product_plus(linear, x, x.repeat(1, 2)[:, :640]).sum().backward()
    assert x.grad is not None
    assert linear.weight.grad is not None


def test_gradient_reaches_w_through_a_whole_chunk() -> None:
    policy = random_policy()
    prefix, state, noise = random_prefix(policy, 2), random_numbers(2, 32), random_numbers(2, 4, 32)
    gradients = []
    for sampler in (Policy.act, None):
        w = random_w(policy).map(lambda t: t.requires_grad_())
        if sampler is not None:
            chunk = policy.act(prefix, state, w, noise=noise)
        else:
            chunk = by_stock_modules(policy, prefix, state, w, noise)
        gradients.append(torch.autograd.grad(chunk.square().sum(), w.W1)[0])
    assert gradients[0].any()
    assert_close(*gradients)


@pytest.mark.parametrize("change", ["in place", "replaced and frozen again", "loaded"])
def test_changed_weights_are_noticed(change: str) -> None:
    policy, other = random_policy(), random_policy(seed=1)
    prefix, state, noise = random_prefix(policy, 1), random_numbers(1, 32), random_numbers(1, 4, 32)
    w = random_w(policy)
    before = policy.act(prefix, state, w, noise=noise)
    if change == "in place":
        policy.action_out_proj.weight.mul_(2.0)
    elif change == "loaded":
        policy.load_state_dict(other.state_dict())
    else:
        policy.action_in_proj.weight.data = other.action_in_proj.weight.data.clone()
        policy.freeze()
    after = policy.act(prefix, state, w, noise=noise)
    assert not torch.allclose(before, after, atol=1e-3)
    assert_close(after, by_stock_modules(policy, prefix, state, w, noise))


def test_what_was_prepared_in_inference_mode_serves_outside_of_it() -> None:
    policy = random_policy()
    state, noise, w = random_numbers(1, 32), random_numbers(1, 4, 32), random_w(policy)
    with torch.inference_mode():
        first = policy.act(random_prefix(policy, 1), state, w, noise=noise)
    second = policy.act(random_prefix(policy, 1), state, w, noise=noise)
    assert torch.equal(first, second)


def test_denoiser_serves_times_that_the_sampler_does_not_use() -> None:
    policy = random_policy()
    prefix, state, x = random_prefix(policy, 2), random_numbers(2, 32), random_numbers(2, 4, 32)
    w = random_w(policy)
    denoise = policy.denoiser(prefix, state, w)
    for time in (1.0, 0.37, 0.5):
        expected = policy.predict(prefix, state, x, torch.full((2,), time), w)
        assert_close(denoise(x, time), expected)


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_neither_w_nor_observation_nor_prompt_compiles_again(
    flavour: Literal["pi0", "pi05"],
) -> None:
    policy = random_policy(flavour)
    state, noise = random_numbers(1, 32), random_numbers(1, 4, 32)
    given = []
    for seed, text in enumerate(PROMPTS[:3]):
        tokens, mask = policy.prompts.encode([text])
        cameras = torch.ones(1, 2, dtype=torch.bool)
        given.append((random_images(1, 2, seed), cameras, tokens, mask))
    ws = [random_w(policy, seed=seed) for seed in range(3)]
    expected = [
        policy.act(policy.prefix(*one), state, w, noise=noise)
        for one, w in zip(given, ws, strict=True)
    ]
    counter = CompileCounter()
    compile_parts(policy.act_path(1), counter)
    with torch.no_grad():
        for one, w, chunk in zip(given, ws, expected, strict=True):
            assert_close(policy.act(policy.prefix(*one), state, w, noise=noise), chunk)
            # Vision, language and action expert, once each.
            assert counter.frame_count == 3


def test_without_a_compiler_it_runs_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_graph: object, _inputs: object) -> None:
        raise RuntimeError("no C++ compiler found")

    double = Compiled(torch.square, backend=broken)
    for _ in range(2):
        assert torch.equal(double(torch.tensor([3.0])), torch.tensor([9.0]))
    said = [record for record in caplog.records if record.name == "selfalign.model.compiled"]
    assert [record.levelname for record in said] == ["WARNING"]
    assert "no C++ compiler found" in said[0].getMessage()


def test_an_error_of_the_function_itself_is_raised() -> None:
    with pytest.raises(RuntimeError):
        Compiled(torch.mm, backend="eager")(torch.ones(2, 3), torch.ones(2, 3))
