"""What real-time chunking is for: chunks that join, of one policy or of two, guided or trained."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from selfalign.model import flow, rtc
from selfalign.model.checkpoint import load_policy, shipped_model_dir
from selfalign.model.config import dummy_config
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from tests.fakes.models import random_images, random_numbers, random_prefix

Flavour = Literal["pi0", "pi05"]
FLAVOURS = ["pi0", "pi05"]
TARGETS = ["velocity", "clean"]
H, A = 4, 32


def overlap(delay: list[int], until: list[int], actions: Tensor) -> rtc.Overlap:
    known = torch.ones(A, dtype=torch.bool)
    return rtc.Overlap(actions, torch.tensor(delay), torch.tensor(until), known)


def sample_plain(network: rtc.Network, noise: Tensor, target: Any) -> Tensor:
    """Ten steps without an overlap."""
    return flow.sample(lambda x, time_B: network(x, float(time_B[0])), noise, 10, target)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_model_trained_with_frozen_starts_goes_on_from_them(flavour: Flavour) -> None:
    """Chunks that only their first action tells: held at a level that no observation shows."""
    config = dummy_config(flavour).model_copy(update={"trained_delay": 2})
    torch.manual_seed(0)
    policy = Policy(config)
    prefix, state = random_prefix(policy, 1), torch.zeros(1, A)
    rows = torch.zeros(32, dtype=torch.long)
    many = Prefix(*(x.detach() if isinstance(x, Tensor) else x for x in vars(prefix).values()))
    many, generator = many.index(rows), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(150):
        level = torch.rand(32, 1, 1, generator=generator) * 2 - 1
        delay = torch.randint(3, (32,), generator=generator)
        time_B = flow.sample_time(32, generator, torch.device("cpu"))
        times = rtc.training_times(time_B, delay, H)
        loss = policy.action_loss(
            many, state.expand(32, -1), level.expand(32, H, A), policy.live_w0(),
            noise=torch.randn(32, H, A, generator=generator), time_B=times,
        )  # fmt: skip
        optimiser.zero_grad()
        (loss * (times > 0)[..., None]).mean().backward()
        optimiser.step()
    policy.freeze()
    old = overlap([1, 2], [4, 4], torch.tensor([0.7, -0.7])[:, None, None].expand(2, H, A))

    with torch.no_grad():
        two, noise = many.index(rows[:2]), random_numbers(2, H, A)
        new = rtc.continue_chunk(
            policy, two, state.expand(2, -1), policy.base_w(), old, noise=noise
        )
        plain = policy.act(two, state.expand(2, -1), policy.base_w(), noise=noise)

    error, plain_error = ((c - old.actions_BHA)[:, 2:].abs().mean() for c in (new, plain))
    assert error < 0.2
    assert plain_error > 3 * error


def test_a_chunk_of_another_w_continues_the_old_chunk() -> None:
    """The hot swap, with the trained model that ships: guidance means little to a random one."""
    policy = load_policy(shipped_model_dir())
    base, rows = policy.base_w(), 8
    other = base.map(lambda x: x + 0.05 * random_numbers(*x.shape, seed=1))
    images = torch.nn.functional.interpolate(random_images(rows, 1).flatten(0, 1), size=96)[:, None]
    tokens, mask = policy.prompts.encode(["touch the red cube"] * rows)
    prefix = policy.prefix(images, torch.ones(rows, 1, dtype=torch.bool), tokens, mask)
    state = random_numbers(rows, 32) * 0.3
    chunk = policy.act(prefix, state, base, noise=random_numbers(rows, H, A, seed=2))
    old, noise = overlap([1] * rows, [3] * rows, chunk), random_numbers(rows, H, A, seed=3)

    plain = policy.act(prefix, state, other, noise=noise)
    new = rtc.continue_chunk(policy, prefix, state, other, old, noise=noise)

    assert torch.equal(new[:, 0], chunk[:, 0])
    jumps = [float((c[:, 1, :4] - chunk[:, 1, :4]).abs().mean()) for c in (new, plain)]
    assert jumps[0] < 0.6 * jumps[1]


class SmoothPolicy:
    """The exact flow policy of random smooth trajectories around a mean: many ways to go on.

    Trajectories are a Gaussian process, so that the expected action given x_t is a matrix.
    """

    def __init__(self, mean: float, target: str, horizon: int = 50) -> None:
        steps = torch.arange(horizon, dtype=torch.float64)
        self.kernel = torch.exp(-0.5 * ((steps[:, None] - steps) / 8) ** 2) * 0.04
        self.kernel += 1e-6 * torch.eye(horizon, dtype=torch.float64)
        self.mean, self.target = mean, target

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        noisy = (1 - t) ** 2 * self.kernel + t**2 * torch.eye(len(self.kernel))
        gain = (1 - t) * self.kernel @ torch.linalg.inv(noisy)
        clean = self.mean + (gain.float() @ (x_t - (1 - t) * self.mean))
        return clean if self.target == "clean" else (x_t - clean) / t


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("jacobian", ["network", "identity"])
def test_long_chunks_of_a_swapped_policy_join_with_a_small_jump(target: Any, jacobian: Any) -> None:
    """Horizon 50, 10 steps, 20 executed, delay 5: the mean of the new policy is another one."""
    rows, delay, executed = 16, 5, 20
    noise = [random_numbers(rows, 50, 1, seed=seed) for seed in (1, 2)]
    old = sample_plain(SmoothPolicy(0.0, target), noise[0], target)[:, executed:]
    known = torch.cat([old, torch.zeros(rows, executed, 1)], 1)
    spans = [torch.full((rows,), span) for span in (delay, 50 - executed)]
    overlap = rtc.Overlap(known, *spans, torch.tensor([True]))
    new_policy = SmoothPolicy(0.2, target)

    plain = sample_plain(new_policy, noise[1], target)
    guided = rtc.sample_guided(
        new_policy, noise[1], flow.times(10), target, overlap, rtc.Guidance(jacobian=jacobian)
    )

    def seam(chunk: Tensor) -> float:
        return float((chunk[:, delay] - old[:, delay - 1]).abs().mean())

    inside = float((plain[:, 1:] - plain[:, :-1]).abs().mean())
    assert seam(guided) < 0.25 * seam(plain)
    assert seam(guided) < 4 * inside
    # Past the overlap the new policy does as it likes.
    assert abs(float(guided[:, -5:].mean()) - 0.2) < 0.1
