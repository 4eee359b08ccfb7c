"""Attention written out equals PyTorch's fused one."""

import pytest
import torch
from torch import nn

from selfalign.model.attention import attention, by_products
from tests.fakes.models import random_numbers

KEYS, WIDTH = 7, 8


@pytest.mark.parametrize("rows", [1, 2048, 2049, 5000])
@pytest.mark.parametrize("biased", ["no", "one row", "each row"])
def test_products_equal_the_fused_kernel(rows: int, biased: str) -> None:
    query = random_numbers(2, 1, rows, WIDTH)
    key, value = (random_numbers(2, 1, KEYS, WIDTH, seed=seed) for seed in (1, 2))
    bias = random_numbers(2, 1, 1 if biased == "one row" else rows, KEYS, seed=3)
    bias[..., 2] = -torch.inf
    given = None if biased == "no" else bias
    expected = nn.functional.scaled_dot_product_attention(query, key, value, given, scale=0.3)
    torch.testing.assert_close(by_products(query, key, value, given, 0.3), expected)


def test_bfloat16_is_near_float32() -> None:
    query, key, value = (random_numbers(1, 2, 9, WIDTH, seed=seed) for seed in range(3))
    exact = attention(query, key, value, None, 0.3)
    half = attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), None, 0.3)
    assert half.dtype == torch.bfloat16
    # Eight bits, of inputs, scores and result.
    torch.testing.assert_close(half.float(), exact, rtol=0.02, atol=0.02)
