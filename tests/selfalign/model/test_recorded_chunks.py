"""Recorded chunks: equal actions, whatever W, and nothing recorded when W is swapped."""

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor

from selfalign.model.policy import Policy
from selfalign.model.prefix import Inputs
from selfalign.model.static_call import Recording, StaticCall, StaticCalls
from selfalign.model.weights import FastWeights
from tests.fakes.models import PROMPTS, random_images, random_numbers, random_policy, random_w
from tests.fakes.recorder import TapeRecorder

Flavour = Literal["pi0", "pi05"]


def given(policy: Policy, seed: int, cameras: int = 2, batch: int = 1) -> Inputs:
    tokens, mask = policy.prompts.encode([PROMPTS[seed % len(PROMPTS)]] * batch)
    return Inputs(
        random_images(batch, cameras, seed),
        torch.ones(batch, cameras, dtype=torch.bool),
        tokens,
        mask,
        random_numbers(batch, 32, seed=seed),
    )


def noise(policy: Policy, seed: int, batch: int = 1) -> Tensor:
    return random_numbers(batch, policy.config.horizon, policy.config.action_dim, seed=seed)


def pair(flavour: Flavour = "pi0", **fields: int) -> tuple[Policy, Policy, TapeRecorder]:
    """A policy as it is, the same one recorded, and what records."""
    recorder, recorded = TapeRecorder(), random_policy(flavour, **fields)
    recorded.record_chunks(recorder)
    return random_policy(flavour, **fields), recorded, recorder


def assert_same(plain: Policy, recorded: Policy, seed: int, w: FastWeights, **shape: int) -> None:
    batch = shape.get("batch", 1)
    with torch.inference_mode():
        expected = plain.chunk(given(plain, seed, **shape), w, noise(plain, seed, batch))
        chunk = recorded.chunk(given(recorded, seed, **shape), w, noise(recorded, seed, batch))
    # Padded prompts change the order of sums.
    torch.testing.assert_close(chunk, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_replayed_chunks_follow_observation_prompt_and_w(flavour: Flavour) -> None:
    plain, recorded, recorder = pair(flavour)
    for seed in range(4):
        assert_same(plain, recorded, seed, random_w(plain, seed=seed))
    assert recorder.recordings == 1


def test_an_inner_step_is_replayed_as_well() -> None:
    recorder, recorded = TapeRecorder(), random_policy(inner_step=True)
    recorded.record_chunks(recorder)
    plain = random_policy(inner_step=True)
    for seed in range(2):
        assert_same(plain, recorded, seed, random_w(plain, seed=seed))


def test_other_numbers_of_cameras_are_recorded_for_themselves() -> None:
    plain, recorded, recorder = pair()
    w = random_w(plain)
    for cameras in (2, 1, 2, 1):
        assert_same(plain, recorded, cameras, w, cameras=cameras)
    assert recorder.recordings == 2


def test_longer_prompts_share_a_recording_with_those_of_their_length() -> None:
    plain, recorded, recorder = pair(max_prompt_tokens=100)
    w = random_w(plain)
    for text in ("red", "red " * 20, "red " * 80):
        tokens, mask = plain.prompts.encode([text])
        observation = Inputs(
            random_images(1, 1), torch.ones(1, 1, dtype=torch.bool), tokens, mask, torch.ones(1, 32)
        )
        expected = plain.chunk(observation, w, noise(plain, 0))
        chunk = recorded.chunk(observation, w, noise(plain, 0))
        torch.testing.assert_close(chunk, expected, rtol=1e-4, atol=1e-5)
    assert recorder.recordings == 2


def test_batches_and_batches_of_w_are_not_recorded() -> None:
    plain, recorded, recorder = pair()
    assert_same(plain, recorded, 0, random_w(plain), batch=2)
    assert_same(plain, recorded, 0, random_w(plain, groups=1))
    assert recorder.recordings == 0


def test_changed_weights_are_recorded_again() -> None:
    plain, recorded, recorder = pair()
    w = random_w(plain)
    assert_same(plain, recorded, 0, w)
    for policy in (plain, recorded):
        policy.action_out_proj.weight.mul_(2.0)
    assert_same(plain, recorded, 0, w)
    assert recorder.recordings == 2


def test_a_chunk_stays_what_it_was_when_the_next_one_is_made() -> None:
    _, recorded, _ = pair()
    first = recorded.chunk(given(recorded, 0), random_w(recorded), noise(recorded, 0))
    kept = first.clone()
    recorded.chunk(given(recorded, 1), random_w(recorded, seed=1), noise(recorded, 1))
    assert torch.equal(first, kept)


def test_copied_policy_records_for_itself() -> None:
    _, recorded, _ = pair()
    w = random_w(recorded)
    recorded.chunk(given(recorded, 0), w, noise(recorded, 0))
    other = copy.deepcopy(recorded)
    other.action_out_proj.weight.mul_(2.0)
    doubled = other.chunk(given(recorded, 0), w, noise(recorded, 0))
    assert not torch.allclose(
        doubled, recorded.chunk(given(recorded, 0), w, noise(recorded, 0)), atol=1e-3
    )


def test_where_nothing_can_be_recorded_it_runs_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_run: object) -> Recording:
        raise RuntimeError("operation not permitted when stream is capturing")

    plain, policy = random_policy(), random_policy()
    policy.record_chunks(broken)
    for seed in range(2):
        assert_same(plain, policy, seed, random_w(plain))
    said = [record for record in caplog.records if record.name.endswith("static_call")]
    assert [record.levelname for record in said] == ["WARNING"]
    assert "not permitted" in said[0].getMessage()


def test_after_eight_shapes_functions_run_as_they_are() -> None:
    recorder = TapeRecorder()
    calls = StaticCalls(torch.square, recorder)
    for length in range(1, 12):
        assert torch.equal(calls(torch.full((length,), 3.0)), torch.full((length,), 9.0))
    assert recorder.recordings == 8


def test_a_recording_refuses_other_shapes() -> None:
    """Copying would repeat one number over the whole buffer."""
    call = StaticCall(torch.square, (torch.ones(3),), TapeRecorder())
    assert torch.equal(call(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([1.0, 4.0, 9.0]))
    with pytest.raises(ValueError, match=r"recorded for \(3,\), not \(1,\)"):
        call(torch.ones(1))
