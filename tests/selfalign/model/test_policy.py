"""The policy: cached against joint pass, masks, W as an argument."""

from typing import Literal

import pytest
import torch

from selfalign.errors import ModelError
from selfalign.model.config import dummy_config
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.model.ttt import TTTLayer, identity_gate
from selfalign.model.weights import FastWeights
from tests.fakes import joint_reference
from tests.fakes.models import (
    PROMPTS,
    random_images,
    random_numbers,
    random_policy,
    random_prefix,
    random_w,
)

Flavour = Literal["pi0", "pi05"]
FLAVOURS = ["pi0", "pi05"]


def tensors(prefix: Prefix) -> list[torch.Tensor]:
    return [prefix.key_values, prefix.mask, prefix.features, prefix.feature_mask]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_cached_pass_equals_the_joint_pass_over_the_whole_sequence(flavour: Flavour) -> None:
    policy = random_policy(flavour)
    w = random_w(policy)
    images, masks = random_images(2, 3), [[True, False, True], [True, True, True]]
    prompts = PROMPTS[:2]
    tokens, token_mask = policy.prompts.encode(list(prompts))
    state, x_t = random_numbers(2, 32), random_numbers(2, 4, 32, seed=1)
    time = torch.tensor([0.3, 1.0])

    prefix = policy.prefix(images, torch.tensor(masks), tokens, token_mask)
    cached = policy.predict(prefix, state, x_t, time, w)

    for row, (mask, prompt) in enumerate(zip(masks, prompts, strict=True)):
        ids = policy.prompts.ids(prompt)
        joint = joint_reference.predict(
            policy, images[row], mask, ids, state[row], x_t[row], float(time[row]), w
        )
        # Four layers of float32 sums in another order.
        torch.testing.assert_close(cached[row], joint, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_act_leaves_prefix_weights_and_w_untouched(flavour: Flavour) -> None:
    policy = random_policy(flavour)
    prefix, w = random_prefix(policy, 2), random_w(policy, 2)
    before = [t.clone() for t in (*tensors(prefix), w.W1, w.b1)]
    state = {name: tensor.clone() for name, tensor in policy.state_dict().items()}

    policy.act(prefix, random_numbers(2, 32), w, noise=random_numbers(2, 4, 32))
    policy.alignment_pass(prefix, prefix, random_numbers(2, 32), random_numbers(2, 2, 32), w)

    for tensor, old in zip((*tensors(prefix), w.W1, w.b1), before, strict=True):
        assert torch.equal(tensor, old)
    assert policy.state_dict().keys() == state.keys()
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_one_prefix_serves_many_calls_with_equal_results(flavour: Flavour) -> None:
    policy = random_policy(flavour)
    prefix, state, noise = random_prefix(policy, 2), random_numbers(2, 32), random_numbers(2, 4, 32)
    w = random_w(policy)
    first = policy.act(prefix, state, w, noise=noise)
    policy.act(prefix, state + 1, random_w(policy, seed=5), noise=noise)
    assert torch.equal(policy.act(prefix, state, w, noise=noise), first)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_masked_camera_does_not_influence_the_chunk(flavour: Flavour) -> None:
    policy = random_policy(flavour)
    tokens, token_mask = policy.prompts.encode(["touch the red cube"])
    images, other = random_images(1, 3), random_images(1, 3, seed=8)
    other[:, [0, 2]] = images[:, [0, 2]]
    mask = torch.tensor([[True, False, True]])
    state, noise, w = random_numbers(1, 32), random_numbers(1, 4, 32), random_w(policy)

    chunks = [
        policy.act(policy.prefix(x, mask, tokens, token_mask), state, w, noise=noise)
        for x in (images, other)
    ]
    absent = policy.prefix(images[:, [0, 2]], mask[:, [0, 2]], tokens, token_mask)

    assert torch.equal(chunks[0], chunks[1])
    # Positions skip the masked camera, so leaving it out is the same but for the order of sums.
    torch.testing.assert_close(
        policy.act(absent, state, w, noise=noise), chunks[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_padding_of_the_prompt_does_not_influence_the_chunk(flavour: Flavour) -> None:
    policy = random_policy(flavour)
    images, mask = random_images(1, 2), torch.ones(1, 2, dtype=torch.bool)
    state, noise, w = random_numbers(1, 32), random_numbers(1, 4, 32), random_w(policy)
    chunks = []
    for length, filler in ((6, None), (11, 0), (11, 7)):
        tokens, token_mask = policy.prompts.encode(["touch the red cube"], length)
        if filler is not None:
            tokens[~token_mask] = filler
        prefix = policy.prefix(images, mask, tokens, token_mask)
        assert prefix.lengths.tolist() == [2 * 4 + 6]
        chunks.append(policy.act(prefix, state, w, noise=noise))
    assert torch.equal(chunks[1], chunks[2])
    torch.testing.assert_close(chunks[0], chunks[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_batched_w_equals_a_loop_over_w(flavour: Flavour) -> None:
    policy = random_policy(flavour)
    prefix, state, noise = random_prefix(policy, 4), random_numbers(4, 32), random_numbers(4, 4, 32)
    actions, w = random_numbers(4, 2, 32), random_w(policy, 2)

    chunk = policy.act(prefix, state, w, noise=noise)
    predicted = policy.alignment_pass(prefix, prefix, state, actions, w)

    for group, rows in enumerate((torch.tensor([0, 1]), torch.tensor([2, 3]))):
        one, part = w.select(torch.tensor(group)), prefix.index(rows)
        torch.testing.assert_close(
            chunk[rows], policy.act(part, state[rows], one, noise=noise[rows]), rtol=1e-4, atol=1e-4
        )
        alone = policy.alignment_pass(part, part, state[rows], actions[rows], one)
        for name in ("state", "actions", "feature_change"):
            torch.testing.assert_close(
                getattr(predicted, name)[rows], getattr(alone, name), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_w_changes_the_chunk(flavour: Flavour) -> None:
    policy = random_policy(flavour)
    prefix, state, noise = random_prefix(policy, 2), random_numbers(2, 32), random_numbers(2, 4, 32)
    one, other = (policy.act(prefix, state, random_w(policy, seed=s), noise=noise) for s in (1, 2))
    assert (one - other).abs().max() > 1e-2


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_with_closed_gates_any_w_acts_bit_identically_to_no_w(flavour: Flavour) -> None:
    policy = random_policy(flavour)
    for module in policy.modules():
        if isinstance(module, TTTLayer):
            identity_gate(module)
    prefix, state, noise = random_prefix(policy, 2), random_numbers(2, 32), random_numbers(2, 4, 32)
    chunks = [policy.act(prefix, state, random_w(policy, seed=s), noise=noise) for s in (1, 2)]
    policy.action.ttt_rows.clear()  # skips the TTT layers altogether
    without = policy.act(prefix, state, random_w(policy), noise=noise)
    assert torch.equal(chunks[0], chunks[1])
    assert torch.equal(chunks[0], without)


def test_pi0_state_token_does_not_see_the_actions() -> None:
    policy = random_policy("pi0")
    prefix, w = random_prefix(policy, 1), random_w(policy)
    seen = []
    policy.action.norm.register_forward_hook(lambda _m, _i, out: seen.append(out[:, 0].clone()))
    for seed in (1, 2):
        policy.predict(
            prefix, random_numbers(1, 32), random_numbers(1, 4, 32, seed=seed), torch.ones(1), w
        )
    assert torch.equal(seen[0], seen[1])


def test_pi05_chunk_takes_the_state_from_the_prompt_alone() -> None:
    policy = random_policy("pi05")
    prefix, w, noise = random_prefix(policy, 1), random_w(policy), random_numbers(1, 4, 32)
    one, other = (policy.act(prefix, random_numbers(1, 32, seed=s), w, noise=noise) for s in (1, 2))
    assert torch.equal(one, other)


def test_noise_follows_the_generator() -> None:
    policy = random_policy()
    prefix, state, w = random_prefix(policy, 1), random_numbers(1, 32), random_w(policy)
    chunks = [
        policy.act(prefix, state, w, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert torch.equal(chunks[0], chunks[1])
    assert not torch.equal(chunks[0], chunks[2])


def test_eager_attention_gives_the_same_chunk() -> None:
    policy = random_policy()
    prefix, state, noise = random_prefix(policy, 2), random_numbers(2, 32), random_numbers(2, 4, 32)
    w = random_w(policy)
    fused = policy.act(prefix, state, w, noise=noise)
    policy.use_eager_attention(True)
    eager = policy.act(random_prefix(policy, 2), state, w, noise=noise)
    torch.testing.assert_close(eager, fused, rtol=1e-4, atol=1e-4)


def test_gradient_checkpointing_of_the_policy_gives_equal_gradients() -> None:
    policy = random_policy()
    prefix, state = random_prefix(policy, 2), random_numbers(2, 32)
    grads = []
    for enabled in (False, True):
        policy.set_gradient_checkpointing(enabled)
        w = random_w(policy).map(lambda t: t.requires_grad_())
        out = policy.alignment_pass(prefix, prefix, state, random_numbers(2, 2, 32), w)
        loss = out.state.square().sum() + out.actions.square().sum()
        grads.append(torch.autograd.grad(loss, [w.W1, w.b1]))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


def test_action_loss_is_that_of_the_flow_target() -> None:
    policy = random_policy(flow_target="velocity")
    prefix, state, w = random_prefix(policy, 2), random_numbers(2, 32), random_w(policy)
    actions, noise = random_numbers(2, 4, 32, seed=3), random_numbers(2, 4, 32, seed=4)
    time = torch.tensor([0.25, 0.5])
    x_t = torch.stack([0.25 * noise[0] + 0.75 * actions[0], 0.5 * noise[1] + 0.5 * actions[1]])
    expected = (policy.predict(prefix, state, x_t, time, w) - (noise - actions)).square()
    loss = policy.action_loss(prefix, state, actions, w, noise=noise, time_B=time)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_more_cameras_than_the_model_takes_are_refused() -> None:
    policy = random_policy(max_cameras=1)
    with pytest.raises(ModelError, match="2 cameras, but model 'dummy' takes 1"):
        random_prefix(policy, 1, cameras=2)


def test_vocabulary_larger_than_the_embedding_is_refused() -> None:
    with pytest.raises(ModelError, match="embeds 100"):
        Policy(dummy_config().model_copy(update={"vocab_size": 100}))


def test_parameters_are_counted_by_part() -> None:
    policy = random_policy()
    counts = policy.num_parameters()
    assert sum(counts.values()) == sum(p.numel() for p in policy.parameters())
    assert counts["w"] == policy.base_w().W1.numel() + policy.base_w().b1.numel()
    ttt = [m for m in policy.modules() if isinstance(m, TTTLayer)]
    assert counts["ttt"] == sum(p.numel() for m in ttt for p in m.parameters())
    assert counts["vision"] == sum(p.numel() for p in policy.vision.parameters())
    assert all(counts.values())


def test_base_w_is_a_copy_and_live_w0_is_not() -> None:
    policy = random_policy()
    policy.base_w().W1.zero_()
    assert policy.w0_W1.any()
    policy.live_w0().W1.data.zero_()
    assert not policy.w0_W1.any()


def test_w_covers_only_the_layers_that_the_config_names() -> None:
    config = dummy_config()
    ttt = config.ttt.model_copy(update={"layers": (1,)})
    w = Policy(config.model_copy(update={"ttt": ttt})).base_w()
    assert w.layers == (1,)
    assert w.named().keys() == {"ttt.1.W1", "ttt.1.b1"}


def test_prefix_index_and_cat_are_inverse_and_count_their_bytes() -> None:
    policy = random_policy()
    prefix = random_prefix(policy, 4)
    halves = [prefix.index(torch.tensor([0, 1])), prefix.index(torch.tensor([2, 3]))]
    joined = Prefix.cat(halves)
    for one, other in zip(tensors(joined), tensors(prefix), strict=True):
        assert torch.equal(one, other)
    assert sum(half.nbytes for half in halves) == prefix.nbytes


def test_frozen_policy_needs_no_gradient_but_for_w() -> None:
    policy = random_policy()
    assert not any(p.requires_grad for p in policy.parameters())
    w = random_w(policy).map(lambda t: t.requires_grad_())
    prefix = random_prefix(policy, 1)
    policy.act(prefix, random_numbers(1, 32), w, noise=random_numbers(1, 4, 32)).sum().backward()
    assert w.W1.grad is not None
    assert w.W1.grad.any()
    assert all(p.grad is None for p in policy.parameters())


def test_policy_in_training_has_no_identity_yet() -> None:
    with pytest.raises(ModelError, match="call freeze"):
        _ = Policy(dummy_config()).base_sha256


def test_identity_changes_with_every_frozen_tensor_and_not_with_w() -> None:
    policy = random_policy()
    base = policy.base_sha256
    for name, tensor in policy.state_dict().items():
        flat = tensor.view(-1)
        old = flat[-1].clone()
        flat[-1] += 1
        changed = policy.freeze().base_sha256
        flat[-1] = old
        assert (changed == base) == name.startswith("w0_"), name
    assert policy.freeze().base_sha256 == base


def test_identity_covers_the_configuration() -> None:
    one, other = random_policy(), random_policy(flow_steps=3)
    assert one.base_sha256 != other.base_sha256


def test_half_precision_policy_acts_close_to_the_full_one() -> None:
    policy = random_policy()
    state, noise, w = random_numbers(1, 32), random_numbers(1, 4, 32), random_w(policy)
    full = policy.act(random_prefix(policy, 1), state, w, noise=noise)
    for name, parameter in policy.named_parameters():
        if not name.startswith("w0_"):
            parameter.data = parameter.data.bfloat16()
    prefix = random_prefix(policy, 1)
    assert prefix.key_values.dtype == torch.bfloat16
    half = policy.act(prefix, state, w, noise=noise)
    assert half.dtype == torch.float32
    # bfloat16 keeps 8 bits; the error grows over four layers and two steps.
    assert float((half - full).abs().mean() / full.abs().mean()) < 0.1


def test_alignment_in_half_precision_gives_w_a_float32_gradient() -> None:
    policy = random_policy()
    for name, parameter in policy.named_parameters():
        if not name.startswith("w0_"):
            parameter.data = parameter.data.bfloat16()
    prefix = random_prefix(policy, 1)
    w = random_w(policy).map(lambda t: t.requires_grad_())
    out = policy.alignment_pass(prefix, prefix, random_numbers(1, 32), random_numbers(1, 2, 32), w)
    (gradient,) = torch.autograd.grad(out.state.float().square().sum(), w.W1)
    assert gradient.dtype == torch.float32
    assert gradient.any()


def test_w_of_another_geometry_fails_instead_of_broadcasting() -> None:
    policy = random_policy()
    w = policy.base_w()
    wrong = FastWeights(w.W1[..., :4, :4], w.b1[..., :4], w.layers)
    with pytest.raises(RuntimeError):
        policy.act(random_prefix(policy, 1), random_numbers(1, 32), wrong)
