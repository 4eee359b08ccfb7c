"""Real-time chunking: a new chunk continues the old one, by guidance or by a trained prefix."""

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model import flow, rtc
from selfalign.model.config import ModelConfig, dummy_config
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from tests.fakes.models import random_numbers, random_policy, random_prefix, random_w

Flavour = Literal["pi0", "pi05"]
FLAVOURS = ["pi0", "pi05"]
TARGETS = ["velocity", "clean"]
H, A = 4, 32
NETWORK = rtc.Guidance("network")


def overlap(
    delay: list[int], until: list[int], *, actions: Tensor | None = None, numbers: int = A
) -> rtc.Overlap:
    previous = random_numbers(len(delay), H, A, seed=9) * 0.5 if actions is None else actions
    known = torch.arange(A) < numbers
    return rtc.Overlap(previous, torch.tensor(delay), torch.tensor(until), known)


def inputs(policy: Policy, batch: int) -> tuple[Prefix, Tensor, Tensor]:
    """Prefix, state and noise."""
    return random_prefix(policy, batch), random_numbers(batch, A), random_numbers(batch, H, A)


def sample_plain(network: rtc.Network, noise: Tensor, target: Any) -> Tensor:
    """Ten steps without an overlap."""
    return flow.sample(lambda x, time_B: network(x, float(time_B[0])), noise, 10, target)


def reference_guided(
    policy: Policy, given: tuple[Prefix, Tensor, Tensor], w: Any, old: rtc.Overlap, most: float
) -> Tensor:
    """The paper in its own time tau = 1 - t (0 noise, 1 action), one sample at a time, with the
    whole Jacobian of the denoiser written out."""
    prefix, state, noise = given
    config, chunks = policy.config, []
    for row in range(len(prefix)):
        alone, rows = prefix.index(torch.tensor([row])), slice(row, row + 1)
        mask = torch.zeros(H, A)
        delay, until = int(old.delay_B[row]), int(old.until_B[row])
        for i in range(H):
            c = (until - i) / (until - delay + 1)
            soft = c * (math.exp(c) - 1) / (math.e - 1) if i < until else 0.0
            mask[i] = 1.0 if i < delay else soft
        mask = mask * old.known_A
        x = noise[rows]
        for n in range(config.flow_steps):
            tau = n / config.flow_steps

            def velocity(
                x: Tensor, alone: Prefix = alone, rows: slice = rows, tau: float = tau
            ) -> Tensor:
                predicted = policy.predict(alone, state[rows], x, torch.tensor([1 - tau]), w)
                if config.flow_target == "velocity":
                    return -predicted
                return (predicted - x) / (1 - tau)

            def denoiser(x: Tensor, tau: float = tau, velocity: Any = velocity) -> Tensor:
                return x + (1 - tau) * velocity(x)

            jacobian = torch.autograd.functional.jacobian(denoiser, x, vectorize=True).reshape(
                H * A, H * A
            )
            error = ((old.actions_BHA[rows] - denoiser(x)) * mask).reshape(H * A)
            pull = (error @ jacobian).reshape(1, H, A)
            weight = most
            if tau > 0:
                r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
                weight = min(most, (1 - tau) / (tau * r2))
            x = x + (velocity(x) + weight * pull) / config.flow_steps
        x[0, :delay] = old.actions_BHA[row, :delay]
        chunks.append(x.detach())
    return torch.cat(chunks)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("target", TARGETS)
def test_guided_equals_the_paper_with_an_explicit_jacobian(flavour: Flavour, target: str) -> None:
    policy = random_policy(flavour, flow_target=target, flow_steps=3)
    given, w, old = inputs(policy, 2), random_w(policy, 2), overlap([1, 2], [3, 4], numbers=7)
    prefix, state, noise = given
    guidance = rtc.Guidance("network", most=2.5)

    got = rtc.continue_chunk(policy, prefix, state, w, old, noise=noise, guidance=guidance)

    expected = torch.cat(
        [
            reference_guided(
                policy,
                (prefix.index(torch.tensor([row])), state[[row]], noise[[row]]),
                w.select(torch.tensor([row])),
                rtc.Overlap(
                    old.actions_BHA[[row]], old.delay_B[[row]], old.until_B[[row]], old.known_A
                ),
                2.5,
            )
            for row in range(2)
        ]
    )
    # The same sums in another order, through three network passes and their gradients.
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("target", TARGETS)
def test_guided_by_default_takes_the_policys_fast_path_with_equal_results(
    flavour: Flavour, target: Any
) -> None:
    policy = random_policy(flavour, flow_target=target, flow_steps=3)
    (prefix, state, noise), w, old = inputs(policy, 2), random_w(policy), overlap([1, 2], [3, 4])

    def network(x_t: Tensor, time: float) -> Tensor:
        return policy.predict(prefix, state, x_t, torch.full((2,), time), w)

    got = rtc.continue_chunk(policy, prefix, state, w, old, noise=noise)
    slow = rtc.sample_guided(network, noise, flow.times(3), target, old, rtc.Guidance())
    torch.testing.assert_close(got, slow, rtol=1e-4, atol=1e-5)
    x, weights = noise, old.weights()[..., None]
    for time, pull in ((1.0, 3.0), (2 / 3, 2.5), (1 / 3, 2.5)):
        predicted = network(x, time)
        clean = predicted if target == "clean" else x - time * predicted
        velocity = predicted if target == "velocity" else (x - clean) / time
        x = x - (velocity - pull * weights * (old.actions_BHA - clean)) / 3
    torch.testing.assert_close(
        got, torch.where(old.frozen()[..., None], old.actions_BHA, x), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("jacobian", ["network", "identity"])
def test_guidance_pulls_the_free_steps_towards_the_old_chunk(target: Any, jacobian: Any) -> None:
    """A linear denoiser, so that the network cannot hide a wrong sign."""
    policy_mean = random_numbers(1, H, A, seed=3)

    def network(x_t: Tensor, t: float) -> Tensor:
        clean = 0.5 * policy_mean + 0.5 * x_t
        return clean if target == "clean" else (x_t - clean) / t

    noise, old = random_numbers(1, H, A), overlap([1], [4])
    plain = sample_plain(network, noise, target)
    guidance = rtc.Guidance(jacobian=jacobian)
    new = rtc.sample_guided(network, noise, flow.times(10), target, old, guidance)
    before, after = ((c - old.actions_BHA).abs().mean(-1)[0] for c in (plain, new))
    assert torch.equal(new[:, 0], old.actions_BHA[:, 0])
    assert (after[1:3] < before[1:3]).all()
    assert after[1] / before[1] < after[3] / before[3]


def test_weights_are_one_then_decay_then_zero() -> None:
    weights = overlap([2, 0, 4, 1], [4, 0, 4, 1]).weights()
    e = math.e - 1
    soft = [c * (math.exp(c) - 1) / e for c in (2 / 3, 1 / 3)]
    expected = [[1, 1, *soft], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    torch.testing.assert_close(weights, torch.tensor(expected))


@pytest.mark.parametrize(
    ("time", "weight"), [(1.0, 5.0), (0.9, 5.0), (0.5, 2.0), (0.25, 10 / 3), (0.01, 5.0), (0, 5.0)]
)
def test_the_guidance_weight_is_that_of_the_paper_and_bounded(time: float, weight: float) -> None:
    assert rtc.Guidance(most=5.0).weight(time, 10) == pytest.approx(weight)
    assert rtc.Guidance().weight(time, 5) == pytest.approx(weight)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("form", ["guided", "trained"])
def test_a_sample_that_continues_nothing_is_sampled_as_without_an_overlap(
    flavour: Flavour, form: Any
) -> None:
    policy = random_policy(flavour, trained_delay=2)
    (prefix, state, noise), w = inputs(policy, 3), random_w(policy)
    plain = policy.act(prefix, state, w, noise=noise)
    new = rtc.continue_chunk(
        policy, prefix, state, w, overlap([0, 2, 0], [0, 3, 0]), noise=noise, form=form
    )
    torch.testing.assert_close(new[[0, 2]], plain[[0, 2]], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(new[1], plain[1], atol=1e-3)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_trained_form_gives_frozen_actions_clean_with_a_time_of_zero(flavour: Flavour) -> None:
    policy = random_policy(flavour, trained_delay=3, flow_steps=4)
    (prefix, state, noise), w = inputs(policy, 2), random_w(policy)
    old, seen = overlap([1, 3], [3, 4]), []

    def predict(x_t: Tensor, time_BH: Tensor) -> Tensor:
        for row, delay in enumerate([1, 3]):
            assert torch.equal(x_t[row, :delay], old.actions_BHA[row, :delay])
            assert (time_BH[row, :delay] == 0).all()
            seen.append(float(time_BH[row, delay:].unique()))
        return policy.predict(prefix, state, x_t, time_BH, w)

    both = torch.tensor([True, True])
    network = rtc.prefixed(predict, old, both)
    new = rtc.sample_guided(network, noise, flow.times(4), "clean", old, NETWORK, both)
    assert seen == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    assert torch.equal(new[0, :1], old.actions_BHA[0, :1])
    assert torch.equal(new[1, :3], old.actions_BHA[1, :3])
    chosen = rtc.continue_chunk(policy, prefix, state, w, old, noise=noise)
    assert torch.equal(chosen, new), "`auto` takes the trained form where the delay allows it"


def test_times_for_training_are_zero_at_frozen_starts_only() -> None:
    times = rtc.training_times(torch.tensor([0.5, 0.9]), torch.tensor([0, 3]), H)
    expected = [[0.5] * 4, [0, 0, 0, 0.9]]
    torch.testing.assert_close(times, torch.tensor(expected))
    actions, noise = random_numbers(2, H, A), random_numbers(2, H, A, seed=1)
    x_t = flow.interpolate(actions, noise, times)
    assert torch.equal(x_t[1, :3], actions[1, :3])
    assert torch.equal(x_t[0], flow.interpolate(actions, noise, torch.tensor([0.5, 0.9]))[0])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_one_time_per_action_equals_one_time_where_all_are_equal(flavour: Flavour) -> None:
    policy = random_policy(flavour)
    (prefix, state, x_t), w = inputs(policy, 2), random_w(policy)
    time = torch.tensor([0.3, 0.8])
    one = policy.predict(prefix, state, x_t, time, w)
    each = policy.predict(prefix, state, x_t, time[:, None].expand(2, H), w)
    torch.testing.assert_close(each, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_each_action_reads_its_own_time(flavour: Flavour) -> None:
    """The first layer's input (pi0), or norm (pi0.5), of one action follows its time alone."""
    policy = random_policy(flavour)
    x_t = random_numbers(1, H, A)
    time = torch.full((1, H), 0.5)
    changed = time.clone()
    changed[0, 2] = 0.0
    outputs = []
    for times in (time, changed):
        tokens, condition = policy._embed_actions(x_t, times)
        if condition is not None:
            tokens, _ = policy.action.layers[0].input_layernorm(tokens, condition)
        outputs.append(tokens)
    same = (outputs[0] == outputs[1]).all(-1)[0]
    assert same.tolist() == [True, True, False, True]


def test_a_model_that_was_not_trained_for_prefixes_says_so_and_auto_guides() -> None:
    policy = random_policy()
    (prefix, state, noise), w, old = inputs(policy, 1), random_w(policy), overlap([1], [3])
    with pytest.raises(ModelError, match="at most 0 steps"):
        rtc.continue_chunk(policy, prefix, state, w, old, noise=noise, form="trained")
    auto = rtc.continue_chunk(policy, prefix, state, w, old, noise=noise)
    guided = rtc.continue_chunk(policy, prefix, state, w, old, noise=noise, form="guided")
    assert torch.equal(auto, guided)


@pytest.mark.parametrize("guidance", [rtc.Guidance(), rtc.Guidance("network")])
def test_each_chunk_of_a_batch_takes_its_form_for_itself(guidance: rtc.Guidance) -> None:
    policy = random_policy(trained_delay=1)
    (prefix, state, noise), w = inputs(policy, 4), random_w(policy)
    old = overlap([1, 2, 0, 0], [3, 4, 2, 0])
    together = rtc.continue_chunk(policy, prefix, state, w, old, noise=noise, guidance=guidance)
    for row, form in enumerate(["trained", "guided", "guided", "guided"]):
        one = [row]
        alone = rtc.continue_chunk(
            policy, prefix.index(torch.tensor(one)), state[one], w,
            rtc.Overlap(old.actions_BHA[one], old.delay_B[one], old.until_B[one], old.known_A),
            noise=noise[one], form=form, guidance=guidance,  # type: ignore[arg-type]
        )  # fmt: skip
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)


def test_auto_guides_when_the_delay_is_longer_than_trained() -> None:
    policy = random_policy(trained_delay=1)
    (prefix, state, noise), w, old = inputs(policy, 1), random_w(policy), overlap([2], [3])
    with pytest.raises(ModelError, match="at most 1 steps"):
        rtc.continue_chunk(policy, prefix, state, w, old, noise=noise, form="trained")
    assert rtc.continue_chunk(policy, prefix, state, w, old, noise=noise).isfinite().all()


def test_nothing_keeps_a_gradient_and_frozen_weights_get_none() -> None:
    policy = random_policy()
    (prefix, state, noise), w = inputs(policy, 1), random_w(policy)
    old = overlap([1], [3])
    new = rtc.continue_chunk(policy, prefix, state, w, old, noise=noise, guidance=NETWORK)
    assert not new.requires_grad
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_inference_mode_is_refused_in_words() -> None:
    policy = random_policy()
    (prefix, state, noise), w = inputs(policy, 1), random_w(policy)
    with torch.inference_mode(), pytest.raises(ModelError, match="no_grad, not inference_mode"):
        rtc.continue_chunk(
            policy, prefix, state, w, overlap([1], [3]), noise=noise, guidance=NETWORK
        )


@pytest.mark.parametrize(
    ("delay", "until"), [([-1], [2]), ([3], [2]), ([1], [5]), ([1, 1], [2]), ([1], [2, 2])]
)
def test_an_impossible_overlap_is_refused(delay: list[int], until: list[int]) -> None:
    actions = torch.zeros(1, H, A)
    known = torch.ones(A, dtype=torch.bool)
    with pytest.raises(ValueError, match="delay"):
        rtc.Overlap(actions, torch.tensor(delay), torch.tensor(until), known)


def test_an_older_models_identity_does_not_change_with_the_new_field() -> None:
    config = dummy_config()
    assert "trained_delay" not in config.identity()
    assert '"trained_delay":2' in config.model_copy(update={"trained_delay": 2}).identity()
    with pytest.raises(ValueError, match="below horizon"):
        ModelConfig.model_validate(config.model_dump() | {"trained_delay": H})
