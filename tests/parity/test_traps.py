"""The traps of pi0 and pi0.5 that others fell into: scales, positions, clocks, padding.

docs/checkpoints.md lists all traps, and the test of each.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from selfalign.align.aligner import AlignmentConfig
from selfalign.align.losses import AlignmentLosses
from selfalign.model import flow
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from tests.fakes.models import random_policy
from tests.fakes.transitions import random_transitions
from tests.parity.published import difference, prefix_of, seeded_policy
from tests.parity.seeded import Geometry, Inputs, inputs

GEOMETRY = Geometry()
LIMIT = 1e-5
WIDTH = GEOMETRY.language_width
IMAGE_TOKENS = 3 * GEOMETRY.image_tokens


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def policy(request: pytest.FixtureRequest) -> Policy:
    return seeded_policy(GEOMETRY, request.param)


@pytest.fixture(scope="module")
def given() -> Inputs:
    return inputs(GEOMETRY)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def velocity(policy: Policy, prefix: Prefix, given: Inputs) -> Tensor:
    noise, state = torch.from_numpy(given.noise), torch.from_numpy(given.state)
    return policy.predict(prefix, state, noise, torch.full((len(noise),), 0.6), policy.base_w())


def with_padding(given: Inputs) -> Inputs:
    """The same inputs with seven masked tokens behind every prompt."""
    return replace(
        given,
        tokens=np.pad(given.tokens, ((0, 0), (0, 7)), constant_values=5),
        token_mask=np.pad(given.token_mask, ((0, 0), (0, 7))),
    )


def keys_of(policy: Policy, embedded: Tensor, prefix: Prefix) -> Tensor:
    """Keys and values that the language stack makes of embedded tokens, [B, L, 2, v, P, e]."""
    positions = (prefix.mask.cumsum(-1) - 1).clamp_min(0)
    mask = prefix.mask[:, None].expand(-1, embedded.shape[1], -1)
    pairs = policy.language.key_values(embedded, positions, mask)
    return torch.stack([torch.stack(pair, dim=1) for pair in pairs], dim=1)


def apart(prefix: Prefix, key_values: Tensor) -> float:
    rows = zip(prefix.key_values, key_values, prefix.mask, strict=True)
    return max(difference(a[..., valid, :], b[..., valid, :]) for a, b, valid in rows)


def test_words_are_scaled_once_and_images_not_at_all(policy: Policy, given: Inputs) -> None:
    """LeRobot scaled the words of pi0.5 twice for a while; a norm hides it in the first layer."""
    prefix, root = prefix_of(policy, given), WIDTH**0.5
    theirs = load_file(Path(__file__).parent / f"openpi_{policy.config.flavour}.safetensors")
    embedded = theirs["embedded"]
    words = policy.embed_tokens(torch.from_numpy(given.tokens)) * root
    images, _ = policy.vision(torch.from_numpy(given.images).flatten(0, 1))
    valid = prefix.mask[:, IMAGE_TOKENS:]
    assert difference(words[valid], embedded[:, IMAGE_TOKENS:][valid]) <= LIMIT
    assert difference(images.reshape(4, IMAGE_TOKENS, WIDTH), embedded[:, :IMAGE_TOKENS]) <= LIMIT

    assert apart(prefix, keys_of(policy, embedded, prefix)) <= LIMIT
    for words_by, images_by in ((root, 1.0), (1 / root, 1.0), (1.0, root), (1.0, 1 / root)):
        wrong = embedded.clone()
        wrong[:, IMAGE_TOKENS:] *= words_by
        wrong[:, :IMAGE_TOKENS] *= images_by
        assert apart(prefix, keys_of(policy, wrong, prefix)) > 0.01


def test_a_masked_camera_takes_no_position(policy: Policy, given: Inputs) -> None:
    rows = [2, 3]  # the first camera is missing in these
    masked = prefix_of(policy, given).index(torch.tensor(rows))
    without = prefix_of(
        policy,
        Inputs(
            images=given.images[rows, 1:],
            image_mask=given.image_mask[rows, 1:],
            tokens=given.tokens[rows],
            token_mask=given.token_mask[rows],
            state=given.state[rows],
            noise=given.noise[rows],
            actions=given.actions[rows],
            time=given.time[rows],
        ),
    )
    assert masked.lengths.tolist() == without.lengths.tolist()
    for row in range(len(rows)):
        one, other = (p.key_values[row][..., p.mask[row], :] for p in (masked, without))
        assert difference(one, other) <= LIMIT
    chosen = replace(given, noise=given.noise[rows], state=given.state[rows])
    moved = difference(velocity(policy, masked, chosen), velocity(policy, without, chosen))
    assert moved <= LIMIT


def test_padding_of_a_prompt_changes_nothing(policy: Policy, given: Inputs) -> None:
    short, long = prefix_of(policy, given), prefix_of(policy, with_padding(given))
    assert difference(velocity(policy, short, given), velocity(policy, long, given)) <= LIMIT


def test_time_is_embedded_in_float64() -> None:
    """At a period of 4e-3 a time of 1 is an angle of 1571, of which float32 keeps four digits."""
    times = np.array([1.0, 0.9, 0.3, 0.001], np.float32)
    ours = flow.time_embedding(torch.from_numpy(times), 64, 4e-3, 4.0).numpy()

    def embedding(dtype: type[np.floating]) -> np.ndarray:
        period = dtype(4e-3) * dtype(1e3) ** np.linspace(0, 1, 32, dtype=dtype)
        angle = dtype(2 * np.pi) / period * times.astype(dtype)[:, None]
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)

    assert ours.dtype == np.float32
    assert np.abs(ours - embedding(np.float64)).max() <= 1e-7
    assert np.abs(ours - embedding(np.float32)).max() > 1e-5


@pytest.mark.parametrize("clock", ["even", "summed"])
@pytest.mark.parametrize("steps", [1, 3, 10, 20, 64])
def test_the_sampler_takes_every_step_and_ends_at_the_action(steps: int, clock: flow.Clock) -> None:
    """openpi ends its loop at half a step above zero, since its clock may miss zero."""
    times: list[float] = []

    def predict(x: Tensor, time_B: Tensor) -> Tensor:
        times.append(float(time_B[0]))
        return torch.ones_like(x)

    end = flow.sample(predict, torch.zeros(1, 2, 3), steps, "velocity", clock)
    np.testing.assert_allclose(times, 1 - np.arange(steps) / steps, atol=1e-7 * steps**0.5)
    np.testing.assert_allclose(end, -1.0, atol=1e-6)


def test_two_models_of_a_process_share_no_w() -> None:
    """The fork keeps its TTT layers in a dictionary of the class: a copy to adapt is no copy."""
    one, other = (seeded_policy(GEOMETRY, "pi0") for _ in range(2))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_alignment_tokens_stand_right_behind_the_prefix(policy: Policy, given: Inputs) -> None:
    """In the fork they follow the action tokens in training, and nothing once they run alone."""
    short, long = prefix_of(policy, given), prefix_of(policy, with_padding(given))
    assert torch.equal(policy.alignment.positions(short)[:, 0], short.mask.sum(-1))
    actions = torch.from_numpy(given.noise)[:, : policy.config.stride]
    one, other = (
        policy.alignment_pass(p, p, torch.from_numpy(given.state), actions, policy.base_w())
        for p in (short, long)
    )
    assert difference(one.state, other.state) <= LIMIT
    assert difference(one.actions, other.actions) <= LIMIT
    assert difference(one.feature_change, other.feature_change) <= LIMIT


def sizes_of(policy: Policy) -> dict[str, int]:
    """Lengths of all that the modules hold and that has one."""
    held = ((n, k, v) for n, module in policy.named_modules() for k, v in vars(module).items())
    return {f"{n}.{k}": len(v) for n, k, v in held if isinstance(v, list | dict | set | Tensor)}


def test_no_layer_reads_a_number_back_or_keeps_a_history() -> None:
    """The fork's layers call `.item()` on their loss, which a GPU waits for, and keep them all."""
    policy = random_policy()
    batch, w = random_transitions(policy), policy.base_w()
    losses = AlignmentLosses(AlignmentConfig())
    leaf = w.map(lambda tensor: tensor.detach().clone().requires_grad_())
    before = sizes_of(policy)

    class NoneIsRead(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    with torch.enable_grad(), NoneIsRead():
        losses(policy, batch, leaf).total.backward()
    assert leaf.W1.grad is not None
    assert sizes_of(policy) == before


def test_every_trap_of_the_document_names_a_test_that_exists() -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert len(named) >= 40
    for path, name in named:
        assert f"def {name}(" in (root / path).read_text(encoding="utf-8"), f"{path}::{name}"
