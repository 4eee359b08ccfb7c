"""The flow sampler follows openpi: time 1 is noise, time 0 the action."""

import numpy as np
import pytest
import torch
from torch import Tensor

from selfalign.model import flow
from tests.fakes.models import random_numbers

ACTION = random_numbers(2, 3, 4, seed=7)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_perfect_velocity_recovers_the_action(steps: int) -> None:
    noise = random_numbers(2, 3, 4)
    chunk = flow.sample(lambda x, t: noise - ACTION, noise, steps, "velocity")
    torch.testing.assert_close(chunk, ACTION, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_perfect_clean_prediction_recovers_the_action(steps: int) -> None:
    chunk = flow.sample(lambda x, t: ACTION, random_numbers(2, 3, 4), steps, "clean")
    torch.testing.assert_close(chunk, ACTION, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["velocity", "clean"])
def test_network_is_asked_at_ten_times_from_one_to_a_tenth_on_the_line(target: str) -> None:
    noise, seen = random_numbers(2, 3, 4), []

    def predict(x: Tensor, time: Tensor) -> Tensor:
        assert time.shape == (2,)
        seen.append(float(time[0]))
        torch.testing.assert_close(x, flow.interpolate(ACTION, noise, time), rtol=1e-4, atol=1e-5)
        return flow.flow_target(ACTION, noise, target)

    flow.sample(predict, noise, 10, target)

    assert seen == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], abs=1e-6)


def test_interpolation_ends_at_noise_and_action() -> None:
    noise = random_numbers(2, 3, 4)
    assert torch.equal(flow.interpolate(ACTION, noise, torch.ones(2)), noise)
    assert torch.equal(flow.interpolate(ACTION, noise, torch.zeros(2)), ACTION)


def test_training_times_follow_the_beta_distribution_of_openpi() -> None:
    times = flow.sample_time(20_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert float(times.min()) > 0.001
    assert float(times.max()) <= 1.0
    # Beta(1.5, 1): P(t < x) = x^1.5, mean 0.6; three standard errors of 20000 draws are 0.005.
    assert float(times.mean()) == pytest.approx(0.6 * 0.999 + 0.001, abs=0.006)
    assert float((times < 0.5).float().mean()) == pytest.approx(0.4995**1.5, abs=0.012)


def test_training_times_follow_their_generator() -> None:
    draws = [
        flow.sample_time(5, torch.Generator().manual_seed(s), torch.device("cpu"))
        for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("width", [4, 16, 64])
def test_time_embedding_equals_the_formula_of_openpi(width: int) -> None:
    times = np.array([0.0, 0.001, 0.1, 0.5, 1.0])
    got = flow.time_embedding(torch.tensor(times, dtype=torch.float32), width, 4e-3, 4.0)

    exact = times.astype(np.float32).astype(np.float64)
    periods = np.geomspace(4e-3, 4.0, width // 2)
    angles = 2 * np.pi * exact[:, None] / periods
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    # The angles reach 1571 rad: the periods of numpy and torch differ in the last bits of a double.
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
    assert got.dtype == torch.float32
