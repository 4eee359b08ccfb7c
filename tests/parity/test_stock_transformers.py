"""Our pi0 computes what transformers' `PI0ForConditionalGeneration` computes, in float32.

Cameras are missing in front and behind, prompts have different lengths (tests/parity/seeded.py).
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import PI0ForConditionalGeneration

from selfalign.model.policy import Policy
from tests.parity.published import difference, prefix_of, seeded_policy
from tests.parity.seeded import Geometry, Inputs, inputs
from tests.parity.stock import stock_arguments, stock_model, stock_prefix

SMALL = Geometry()
# pi0's own widths at depth one; smaller images keep it below 2 GB.
REAL_WIDTHS = Geometry(
    image_size=56,
    vision_width=1152,
    vision_depth=1,
    vision_heads=16,
    vision_mlp=4304,
    language_width=2048,
    language_mlp=16384,
    action_width=1024,
    action_mlp=4096,
    depth=1,
    head_dim=256,
    prompt_tokens=48,
    action_dim=32,
    horizon=50,
)
# Float32 rounding in different orders of summation; activations are about 1.
LIMIT = 1e-5


@pytest.fixture(scope="module")
def given() -> Inputs:
    return inputs(SMALL)


@pytest.fixture(scope="module")
def ours() -> Policy:
    return seeded_policy(SMALL, "pi0")


@pytest.fixture(scope="module")
def stock() -> PI0ForConditionalGeneration:
    return stock_model(SMALL, exact_time=True)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def check_prefix(ours: Policy, stock: PI0ForConditionalGeneration, geometry: Geometry) -> float:
    given = inputs(geometry)
    arguments = stock_arguments(geometry, given)
    theirs = stock_prefix(stock, arguments)
    prefix = prefix_of(ours, given)
    worst = 0.0
    for row in range(len(prefix)):
        valid = prefix.key_values[row][..., prefix.mask[row], :]
        length = valid.shape[-2]
        assert length == int(arguments["attention_mask"][row].sum())
        worst = max(worst, difference(valid, theirs[row][..., :length, :]))
    return worst


def check_velocity(
    ours: Policy, stock: PI0ForConditionalGeneration, geometry: Geometry, time: float
) -> float:
    given = inputs(geometry)
    x_t, state = torch.from_numpy(given.noise), torch.from_numpy(given.state)
    time_B = torch.full((len(x_t),), time)
    theirs = stock(noise=x_t, timestep=time_B, **stock_arguments(geometry, given)).logits
    velocity = ours.predict(prefix_of(ours, given), state, x_t, time_B, ours.base_w())
    return difference(velocity, theirs)


def check_chunk(ours: Policy, stock: PI0ForConditionalGeneration, geometry: Geometry) -> float:
    given = inputs(geometry)
    noise, state = torch.from_numpy(given.noise), torch.from_numpy(given.state)
    theirs = stock.sample_actions(noise=noise, **stock_arguments(geometry, given))
    chunk = ours.act(prefix_of(ours, given), state, ours.base_w(), noise=noise)
    return difference(chunk, theirs)


def check_loss(ours: Policy, stock: PI0ForConditionalGeneration, geometry: Geometry) -> float:
    """The difference of the mean; each element is compared too, relative to its size."""
    given = inputs(geometry)
    noise, actions = torch.from_numpy(given.noise), torch.from_numpy(given.actions)
    time_B, state = torch.from_numpy(given.time), torch.from_numpy(given.state)
    theirs = stock(
        noise=noise, actions=actions, timestep=time_B, **stock_arguments(geometry, given)
    ).loss
    loss = ours.action_loss(
        prefix_of(ours, given), state, actions, ours.base_w(), noise=noise, time_B=time_B
    )
    torch.testing.assert_close(loss, theirs, rtol=LIMIT, atol=LIMIT)
    return difference(loss.mean(), theirs.mean())


def test_prefix_keys_and_values_are_equal(ours: Policy, stock: PI0ForConditionalGeneration) -> None:
    assert check_prefix(ours, stock, SMALL) <= LIMIT


@pytest.mark.parametrize("time", [1.0, 0.7, 0.1, 0.001])
def test_velocity_is_equal(ours: Policy, stock: PI0ForConditionalGeneration, time: float) -> None:
    assert check_velocity(ours, stock, SMALL, time) <= LIMIT


def test_chunk_of_ten_steps_is_equal(ours: Policy, stock: PI0ForConditionalGeneration) -> None:
    assert ours.config.flow_steps == 10
    assert check_chunk(ours, stock, SMALL) <= LIMIT


def test_training_loss_is_equal(ours: Policy, stock: PI0ForConditionalGeneration) -> None:
    assert check_loss(ours, stock, SMALL) <= LIMIT


def test_a_missing_camera_matters_only_through_its_mask(ours: Policy, given: Inputs) -> None:
    other = torch.from_numpy(given.images).clone()
    other[~torch.from_numpy(given.image_mask)] = 0.3
    changed = prefix_of(ours, replace(given, images=other.numpy()))
    kept = prefix_of(ours, given)
    for row, valid in enumerate(kept.mask):
        before, after = (p.key_values[row][..., valid, :] for p in (kept, changed))
        assert torch.equal(before, after)


@pytest.mark.slow
def test_real_widths_at_depth_one() -> None:
    ours = seeded_policy(REAL_WIDTHS, "pi0")
    stock = stock_model(REAL_WIDTHS, exact_time=True, weights_of=ours)
    assert check_prefix(ours, stock, REAL_WIDTHS) <= LIMIT
    assert check_velocity(ours, stock, REAL_WIDTHS, 0.7) <= LIMIT
    assert check_chunk(ours, stock, REAL_WIDTHS) <= LIMIT
    assert check_loss(ours, stock, REAL_WIDTHS) <= LIMIT
