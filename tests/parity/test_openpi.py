"""Our pi0 and pi0.5 compute what openpi's own PyTorch modules compute, in float32.

openpi's results are files (make_openpi_fixtures.py says how and from which commit they are made).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from tests.parity.published import Way, difference, seeded_policy
from tests.parity.seeded import Geometry, Inputs, inputs

GEOMETRY = Geometry()
# Float32 rounding in different orders of summation; activations are about 1.
LIMIT = 1e-5


class Pair:
    """Our policy, run in one of its ways, and openpi's results of one flavour."""

    def __init__(self, flavour: str, way: str) -> None:
        self.ours: Policy = seeded_policy(GEOMETRY, flavour, "summed")
        self.way = Way(self.ours, way)
        self.theirs = load_file(Path(__file__).parent / f"openpi_{flavour}.safetensors")
        self.given: Inputs = inputs(GEOMETRY)
        self.state = torch.from_numpy(self.given.state)
        self.noise = torch.from_numpy(self.given.noise)
        with torch.no_grad():
            self.prefix: Prefix = self.way.prefix(self.given)

    def velocity(self, time: float, x_t: Tensor | None = None) -> Tensor:
        x_t = self.noise if x_t is None else x_t
        return self.way.velocity(self.prefix, self.state, x_t, time)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


# Only small models of pi0 are folded.
WAYS = [
    ("pi0", "modules"),
    ("pi0", "plain"),
    ("pi0", "folded"),
    ("pi05", "modules"),
    ("pi05", "plain"),
]


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(*request.param)


def test_valid_tokens_are_the_same(pair: Pair) -> None:
    assert torch.equal(pair.prefix.mask, pair.theirs["valid"])
    assert pair.prefix.lengths.tolist() == [21, 12, 9, 10]


def test_prefix_keys_and_values_are_equal(pair: Pair) -> None:
    theirs = pair.theirs["key_values"]
    for row, valid in enumerate(pair.prefix.mask):
        ours = pair.prefix.key_values[row][..., valid, :]
        assert difference(ours, theirs[row][..., valid, :]) <= LIMIT


@pytest.mark.parametrize("time", [1.0, 0.7, 0.1, 0.001])
def test_velocity_is_equal(pair: Pair, time: float) -> None:
    assert difference(pair.velocity(time), pair.theirs[f"velocity_{time}"]) <= LIMIT


def openpi_times() -> list[float]:
    """The ten times of openpi's loop, which adds dt in float32 and ends at `time >= -dt / 2`."""
    times, time, delta = [], np.float32(1.0), np.float32(-0.1)
    while time >= -delta / 2:
        times.append(float(time))
        time += delta
    return times


def chunk_of(pair: Pair, policy: Policy) -> Tensor:
    """Ten steps from the seeded noise, by the way of the pair where it is a fast path."""
    arguments = (pair.prefix, pair.state, policy.base_w())
    if pair.way.name != "modules":
        denoise, x = pair.way.denoiser(*arguments), pair.noise
        for time in policy.config.flow_times:
            x = x - denoise(x, time) / policy.config.flow_steps
        return x
    with torch.enable_grad():
        # Asking for a gradient keeps the policy from its fast paths.
        policy.w0_W1.requires_grad_()
        chunk = policy.act(*arguments, noise=pair.noise)
    policy.w0_W1.requires_grad_(False)
    return chunk.detach()


def test_chunk_of_ten_steps_is_equal(pair: Pair) -> None:
    """At openpi's times, which a converted checkpoint of openpi's has in its config.json."""
    assert pair.ours.config.flow_times == openpi_times()
    assert pair.ours.config.flow_steps == 10
    assert difference(chunk_of(pair, pair.ours), pair.theirs["chunk"]) <= LIMIT
    chunk = pair.ours.act(pair.prefix, pair.state, pair.ours.base_w(), noise=pair.noise)
    assert difference(chunk, pair.theirs["chunk"]) <= LIMIT


def test_another_clock_differs_by_its_rounding() -> None:
    """transformers and LeRobot step through 1 - i / 10, openpi adds up -0.1 in float32.

    That is 1e-7 of time, and the shortest period of the time embedding is 4e-3: hence 1e-4.
    """
    pair, even = Pair("pi0", "plain"), seeded_policy(GEOMETRY, "pi0")
    apart = zip(openpi_times(), even.config.flow_times, strict=True)
    assert 0 < max(abs(a - b) for a, b in apart) < 2e-7
    chunk = even.act(pair.prefix, pair.state, even.base_w(), noise=pair.noise)
    assert LIMIT < difference(chunk, pair.theirs["chunk"]) <= 1e-4


def test_training_loss_is_equal(pair: Pair) -> None:
    loss = pair.ours.action_loss(
        pair.prefix,
        pair.state,
        torch.from_numpy(pair.given.actions),
        pair.ours.base_w(),
        noise=pair.noise,
        time_B=torch.from_numpy(pair.given.time),
    )
    assert difference(loss.mean(), pair.theirs["loss"].mean()) <= LIMIT
    torch.testing.assert_close(loss, pair.theirs["loss"], rtol=LIMIT, atol=LIMIT)


def test_the_results_are_no_trivial_ones(pair: Pair) -> None:
    """Close numbers prove nothing where cameras, prompts, state and time do not matter."""
    chunk = pair.theirs["chunk"]
    assert chunk.std() > 0.1
    assert difference(pair.velocity(1.0), pair.velocity(0.7)) > 0.01
    other = pair.prefix.index(torch.tensor([1, 0, 3, 2]))
    moved = pair.way.velocity(other, pair.state, pair.noise, 1.0)
    assert difference(moved, pair.velocity(1.0)) > 0.01
