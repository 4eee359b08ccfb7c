"""The shipped model through the real compiler: the same actions, compiled once for every W."""

import shutil

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from selfalign.model.checkpoint import load_policy, shipped_model_dir
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights
from tests.fakes.models import random_numbers

PROMPTS = ("touch the red cube", "push the blue cube forward", "")


def chunk(policy: Policy, seed: int, text: str) -> Tensor:
    """What the policy does with one observation, one instruction and one W of a seed."""
    side, w0 = policy.config.vision.image_size, policy.base_w()
    images = random_numbers(1, 1, 3, side, side, seed=seed).clamp(-1, 1)
    cameras = torch.ones(1, 1, dtype=torch.bool)
    w = FastWeights(
        w0.W1 + 0.02 * random_numbers(*w0.W1.shape, seed=seed),
        w0.b1 + 0.02 * random_numbers(*w0.b1.shape, seed=seed),
        w0.layers,
    )
    state = random_numbers(1, policy.config.state_dim, seed=seed)
    noise = random_numbers(1, policy.config.horizon, policy.config.action_dim, seed=seed)
    with torch.inference_mode():
        return policy.act(
            policy.prefix(images, cameras, *policy.prompts.encode([text])), state, w, noise=noise
        )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_model_acts_alike_and_no_swap_of_w_compiles(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = load_policy(shipped_model_dir())
    plain = [chunk(policy, seed, text) for seed, text in enumerate(PROMPTS)]
    policy.compile_act_path()
    counters.clear()
    first = chunk(policy, 0, PROMPTS[0])
    with torch._dynamo.config.patch(error_on_recompile=True):
        others = [chunk(policy, seed, text) for seed, text in enumerate(PROMPTS[1:], start=1)]
    for compiled, expected in zip([first, *others], plain, strict=True):
        torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-5)
    # Vision, language and action expert; nothing fell back to running as it is.
    assert counters["stats"]["unique_graphs"] == 3
    assert [r for r in caplog.records if r.name == "selfalign.model.compiled"] == []
