"""The heart of alignment: what each head may know, what it must not, and that all goes through W.

A forbidden input is shuffled across the batch (every sample gets another one's): the head's output
must not change in a single bit. A permitted input is changed: the output must change.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import pytest
import torch
from torch import Tensor

from selfalign.model.policy import Policy
from selfalign.model.prefix import Features, Prefix
from selfalign.model.weights import FastWeights
from tests.fakes.models import random_numbers, random_policy, random_prefix, random_w

Seen = TypeVar("Seen", Prefix, Features)

HEADS = ("state", "actions", "feature_change")


@dataclass(frozen=True)
class Inputs:
    now: Prefix
    following: Features
    state: Tensor
    actions: Tensor


def make_inputs(policy: Policy) -> Inputs:
    return Inputs(
        random_prefix(policy, 4, seed=1),
        random_prefix(policy, 4, seed=2).only_features(),
        random_numbers(4, 32, seed=3),
        random_numbers(4, policy.config.stride, 32, seed=4),
    )


def heads(policy: Policy, inputs: Inputs, w: FastWeights) -> dict[str, Tensor]:
    out = policy.alignment_pass(inputs.now, inputs.following, inputs.state, inputs.actions, w)
    return {name: getattr(out, name) for name in HEADS}


def shuffled(prefix: Prefix, part: slice) -> Prefix:
    """Keys and values of some tokens, from the next sample of the batch; masks stay."""
    key_values = prefix.key_values.clone()
    key_values[..., part, :] = key_values[..., part, :].roll(1, dims=0)
    return replace(prefix, key_values=key_values)


def image_tokens(prefix: Prefix) -> slice:
    return slice(0, prefix.image_tokens)


def word_tokens(prefix: Prefix) -> slice:
    # bos and newline: what even the empty prompt of alignment has.
    return slice(prefix.image_tokens, prefix.image_tokens + 2)


SHUFFLE: dict[str, Callable[[Inputs], Inputs]] = {
    "images now": lambda i: replace(i, now=shuffled(i.now, image_tokens(i.now))),
    "words now": lambda i: replace(i, now=shuffled(i.now, word_tokens(i.now))),
    "feature now": lambda i: replace(i, now=_roll_feature(i.now)),
    "feature next": lambda i: replace(i, following=_roll_feature(i.following)),
    "state": lambda i: replace(i, state=i.state.roll(1, 0)),
    "first action": lambda i: replace(i, actions=_roll_action(i.actions, 0)),
    "last action": lambda i: replace(i, actions=_roll_action(i.actions, -1)),
}
PERMITTED = {
    "state": {"images now", "words now"},
    "actions": {"feature now", "feature next"},
    "feature_change": {"images now", "state", "first action", "last action"},
}


def _roll_feature(seen: Seen) -> Seen:
    return replace(seen, features=seen.features.roll(1, 0))


def _roll_action(actions: Tensor, index: int) -> Tensor:
    out = actions.clone()
    out[:, index] = out[:, index].roll(1, 0)
    return out


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("inner_step", [False, True])
@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_each_head_reads_what_it_may_and_nothing_else(
    flavour: Literal["pi0", "pi05"], inner_step: bool, eager: bool
) -> None:
    policy = random_policy(flavour, inner_step=inner_step)
    policy.use_eager_attention(eager)
    inputs, w = make_inputs(policy), random_w(policy)
    before = heads(policy, inputs, w)
    for what, shuffle in SHUFFLE.items():
        after = heads(policy, shuffle(inputs), w)
        for name in HEADS:
            if what in PERMITTED[name]:
                # Every sample changes, far above the noise of float32.
                change = (after[name] - before[name]).abs().flatten(1).amax(1)
                assert float(change.min()) > 1e-4, f"{name} ignores {what}"
            else:
                assert torch.equal(after[name], before[name]), f"{name} reads {what}"


@pytest.mark.parametrize("inner_step", [False, True])
def test_samples_that_share_w_do_not_see_one_another(inner_step: bool) -> None:
    policy = random_policy(inner_step=inner_step)
    inputs, w = make_inputs(policy), random_w(policy, 2)
    other = Inputs(
        random_prefix(policy, 4, seed=11),
        random_prefix(policy, 4, seed=12).only_features(),
        random_numbers(4, 32, seed=13),
        random_numbers(4, 2, 32, seed=14),
    )
    first = torch.tensor([0])
    rest = torch.tensor([1, 2, 3])
    mixed = Inputs(
        Prefix.cat([inputs.now.index(first), other.now.index(rest)]),
        Features.cat([inputs.following.index(first), other.following.index(rest)]),
        torch.cat([inputs.state[first], other.state[rest]]),
        torch.cat([inputs.actions[first], other.actions[rest]]),
    )
    before, after = heads(policy, inputs, w), heads(policy, mixed, w)
    for name in HEADS:
        assert torch.equal(before[name][0], after[name][0]), name


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
@pytest.mark.parametrize("name", HEADS)
def test_gradient_of_each_head_reaches_every_part_of_w(
    name: str, flavour: Literal["pi0", "pi05"]
) -> None:
    policy = random_policy(flavour)
    w = random_w(policy).map(lambda t: t.requires_grad_())
    loss = heads(policy, make_inputs(policy), w)[name].square().sum()
    for gradient in torch.autograd.grad(loss, [w.W1, w.b1]):
        per_head = gradient.flatten(2).abs().amax(-1)
        assert float(per_head.min()) > 0, "a layer or head of W has no part in it"


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_nothing_reaches_the_heads_but_the_output_of_the_action_expert(
    flavour: Literal["pi0", "pi05"],
) -> None:
    policy = random_policy(flavour)
    inputs, w = make_inputs(policy), random_w(policy)
    fixed = random_numbers(4, policy.alignment.n_tokens, 16)
    # With the action expert's output held, no input and no W makes a difference.
    policy.action.norm.register_forward_hook(
        lambda _module, _inputs, out: (fixed, out[1]) if isinstance(out, tuple) else fixed
    )
    before = heads(policy, inputs, w)
    other = replace(
        make_inputs(random_policy(flavour, seed=9)), state=inputs.state + 1, actions=-inputs.actions
    )
    after = heads(policy, other, random_w(policy, seed=9))
    for name in HEADS:
        assert torch.equal(before[name], after[name]), name


def test_masked_cameras_are_not_read_by_alignment() -> None:
    policy = random_policy()
    inputs, w = make_inputs(policy), random_w(policy)
    tokens = policy.config.vision.tokens
    second = slice(tokens, 2 * tokens)

    def without_second(prefix: Prefix) -> Prefix:
        mask = prefix.mask.clone()
        mask[:, second] = False
        return replace(prefix, mask=mask)

    blind = replace(inputs, now=without_second(inputs.now))
    changed = replace(blind, now=shuffled(blind.now, second))
    before, after = heads(policy, blind, w), heads(policy, changed, w)
    for name in HEADS:
        assert torch.equal(before[name], after[name]), name
        assert not torch.equal(before[name], heads(policy, inputs, w)[name]), name
