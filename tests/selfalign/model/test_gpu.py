"""What a GPU has to show: the numbers of the CPU, whatever is recorded, pinned or beside it.

Off by default: `pytest -m gpu`. No GPU has been there yet.
"""

import threading
from typing import Literal

import pytest
import torch
from torch import Tensor

from selfalign.align.aligner import Aligner, AlignmentConfig, AlignState
from selfalign.align.batch import TransitionBatch
from selfalign.model.device import finish, side_stream, upload, use_urgent_stream
from selfalign.model.policy import Policy
from selfalign.model.prefix import Inputs
from selfalign.model.static_call import Recording, record_cuda_graph
from selfalign.model.weights import FastWeights
from tests.fakes.models import random_images, random_numbers, random_policy, random_w

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

Flavour = Literal["pi0", "pi05"]
GPU = torch.device("cuda")


def given(policy: Policy, seed: int = 0) -> Inputs:
    tokens, mask = policy.prompts.encode(["touch the red cube"])
    cameras = torch.ones(1, 2, dtype=torch.bool)
    state = random_numbers(1, 32, seed=seed)
    return Inputs(random_images(1, 2, seed), cameras, tokens, mask, state)


def on_gpu(inputs: Inputs) -> Inputs:
    return Inputs(*(upload(tensor, GPU) for tensor in vars(inputs).values()))


def w_on_gpu(w: FastWeights) -> FastWeights:
    return w.map(lambda tensor: tensor.to(GPU))


def noise(policy: Policy, seed: int = 0) -> Tensor:
    return random_numbers(1, policy.config.horizon, policy.config.action_dim, seed=seed)


def chunk(policy: Policy, seed: int = 0) -> Tensor:
    """On whatever device the policy is."""
    w, inputs, start = (
        random_w(random_policy(), seed=seed),
        given(policy, seed),
        noise(policy, seed),
    )
    with torch.inference_mode():
        if policy.device.type == "cuda":
            w, inputs, start = w_on_gpu(w), on_gpu(inputs), start.to(GPU)
        return policy.chunk(inputs, w, start).cpu()


def gpu_policy(flavour: Flavour = "pi0") -> Policy:
    return random_policy(flavour).to(GPU).freeze()


def transitions(policy: Policy, device: torch.device) -> TransitionBatch:
    batch, config = 8, policy.config
    tokens, mask = policy.prompts.encode([""] * batch)
    cameras = torch.ones(batch, 2, dtype=torch.bool)
    pictures = [random_images(batch, 2, seed) for seed in (0, 1)]
    now, then = (
        policy.prefix(*(tensor.to(device) for tensor in (images, cameras, tokens, mask)))
        for images in pictures
    )
    return TransitionBatch(
        now,
        then.only_features(),
        random_numbers(batch, config.state_dim).to(device),
        random_numbers(batch, config.stride, config.action_dim).to(device),
        torch.ones(batch, config.state_dim, dtype=torch.bool, device=device),
        torch.ones(batch, config.action_dim, dtype=torch.bool, device=device),
    )


def aligned(policy: Policy, batch: TransitionBatch, steps: int) -> FastWeights:
    aligner = Aligner(policy, AlignmentConfig())
    state: AlignState = aligner.start(policy.base_w())
    for _ in range(steps):
        state = aligner.step(batch, state)
    return state.w.map(lambda tensor: tensor.cpu())


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Another processor sums in another order."""
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_chunk_is_that_of_the_cpu(flavour: Flavour) -> None:
    assert_near(chunk(gpu_policy(flavour)), chunk(random_policy(flavour)))


def test_bfloat16_weights_with_float32_w() -> None:
    policy = random_policy()
    for name, parameter in policy.named_parameters():
        if not name.startswith("w0_"):
            parameter.data = parameter.data.bfloat16()
    policy.to(GPU).freeze()
    assert policy.base_w().W1.dtype == torch.float32
    expected = chunk(random_policy())
    assert float((chunk(policy) - expected).abs().mean() / expected.abs().mean()) < 0.1


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_replayed_chunks_follow_observation_and_w(flavour: Flavour) -> None:
    recordings: list[Recording] = []

    def record(run: object) -> Recording:
        recordings.append(record_cuda_graph(run))  # type: ignore[arg-type]
        return recordings[-1]

    eager, recorded = gpu_policy(flavour), gpu_policy(flavour)
    recorded.record_chunks(record)
    for seed in (0, 1, 2, 0):
        assert_near(chunk(recorded, seed), chunk(eager, seed))
    assert len(recordings) == 1


def test_uploaded_numbers_are_whole_when_the_stream_reads_them() -> None:
    use_urgent_stream(GPU)
    for seed in range(20):
        numbers = random_numbers(1 << 20, seed=seed)
        assert torch.equal(upload(numbers, GPU).mul(2).cpu(), numbers * 2)


def test_w_made_in_another_thread_is_whole_when_it_acts() -> None:
    policy = gpu_policy()
    policy.record_chunks(record_cuda_graph)
    published: list[FastWeights] = []
    w = random_w(random_policy(), seed=5)
    swap = threading.Thread(target=lambda: published.append(w_on_gpu(w)))
    swap.start()
    swap.join()
    with torch.inference_mode():
        start = noise(policy).to(GPU)
        acted = policy.chunk(on_gpu(given(policy)), published[0], start).cpu()
    plain = random_policy()
    expected = plain.chunk(given(plain), w, noise(plain))
    assert_near(acted, expected)


def test_alignment_beside_acting_changes_neither() -> None:
    policy = gpu_policy()
    policy.record_chunks(record_cuda_graph)
    alone = chunk(policy)
    batch = transitions(policy, GPU)
    finish(GPU)
    expected = aligned(policy, batch, 20)
    found: list[FastWeights] = []

    def align() -> None:
        with side_stream(GPU):
            found.append(aligned(policy, batch, 20))

    worker = threading.Thread(target=align)
    worker.start()
    while worker.is_alive():
        assert_near(chunk(policy), alone)
    worker.join()
    assert_near(found[0].W1, expected.W1)
