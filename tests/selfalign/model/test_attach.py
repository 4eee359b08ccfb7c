"""Attaching TTT layers and an alignment expert: the policy acts as before, to the last bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model.attach import Attached, attach, copied_layers
from selfalign.model.checkpoint import load_policy
from selfalign.model.config import pi0_config
from selfalign.model.convert import convert
from selfalign.model.keys import our_name, unused_because
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from tests.fakes.models import random_images, random_numbers, random_w
from tests.fakes.published import (
    as_openpi_keeps_it,
    published_shapes,
    random_tensors,
    small_config,
    write_checkpoint,
)

TOLD = {"action_dim": 32, "action_horizon": 5}


def bare_checkpoint(root: Path, flavour: str, *, mixed: bool = False) -> dict[str, Tensor]:
    """A converted policy in `root/bare`, and its published tensors."""
    tensors = random_tensors(published_shapes(small_config(flavour)))
    if mixed:
        tensors = as_openpi_keeps_it(tensors)
    write_checkpoint(root / "source", tensors, TOLD)
    convert(root / "source", root / "bare", like=small_config(flavour))
    return tensors


def attached(root: Path, name: str = "whole", **options: object) -> Attached:
    return attach(root / "bare", root / name, alignment_depth=1, **options)  # type: ignore[arg-type]


def bare_policy(tensors: dict[str, Tensor], flavour: str) -> Policy:
    """The published policy alone: no layer has TTT, and so no W can have an effect."""
    config = small_config(flavour, ttt={"layers": (), "heads": 2}, flow_clock="summed")
    policy = Policy(config).freeze()
    ours = {our_name(k): t for k, t in tensors.items() if unused_because(k) is None}
    policy.load_state_dict(ours, strict=False, assign=True)
    return policy.freeze()


def prefix_of(policy: Policy) -> Prefix:
    tokens, mask = policy.prompts.encode(["touch the red cube", "lift it"])
    cameras = torch.tensor([[True, True], [True, False]])
    return policy.prefix(random_images(2, 2), cameras, tokens, mask)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_chunk_is_the_same_to_the_last_bit_with_any_w(
    tmp_path: Path, flavour: str, mixed: bool
) -> None:
    tensors = bare_checkpoint(tmp_path, flavour, mixed=mixed)
    attached(tmp_path)
    with_ttt, without = load_policy(tmp_path / "whole"), bare_policy(tensors, flavour)
    assert with_ttt.dtype == without.dtype == (torch.bfloat16 if mixed else torch.float32)
    state, noise = random_numbers(2, 32), random_numbers(2, 5, 32, seed=1)
    expected = without.act(prefix_of(without), state, without.base_w(), noise=noise)
    for w in (with_ttt.base_w(), random_w(with_ttt)):
        chunk = with_ttt.act(prefix_of(with_ttt), state, w, noise=noise)
        assert torch.equal(chunk, expected)
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_mixed_precision_of_openpi_acts_like_float32(tmp_path: Path, flavour: str) -> None:
    bare_checkpoint(tmp_path, flavour, mixed=True)
    attached(tmp_path)
    state, noise = random_numbers(2, 32), random_numbers(2, 5, 32, seed=1)
    chunks = []
    for dtype in (torch.float32, None):
        policy = load_policy(tmp_path / "whole", dtype=dtype)
        chunks.append(policy.act(prefix_of(policy), state, policy.base_w(), noise=noise))
    exact, mixed = chunks
    assert mixed.dtype == torch.float32
    assert not torch.equal(exact, mixed)
    # Rounding of bfloat16 (2^-8) through two layers and three steps; actions are of order one.
    assert torch.allclose(exact, mixed, atol=0.1)


def test_opened_gate_changes_the_chunk(tmp_path: Path) -> None:
    bare_checkpoint(tmp_path, "pi0")
    attached(tmp_path)
    policy = load_policy(tmp_path / "whole")
    state, noise = random_numbers(2, 32), random_numbers(2, 5, 32, seed=1)
    before = policy.act(prefix_of(policy), state, policy.base_w(), noise=noise)
    policy.get_parameter("action.layers.1.ttt.gate").fill_(0.5)
    after = policy.act(prefix_of(policy), state, policy.base_w(), noise=noise)
    assert not torch.equal(before, after)


def test_new_weights_follow_the_seed(tmp_path: Path) -> None:
    bare_checkpoint(tmp_path, "pi05")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        attached(tmp_path, name, seed=seed)
    a, b, c = (load_policy(tmp_path / name) for name in "abc")
    assert a.base_sha256 == b.base_sha256 != c.base_sha256
    assert torch.equal(a.w0_W1, b.w0_W1)
    assert not torch.equal(a.w0_W1, c.w0_W1)
    assert not torch.equal(
        a.get_parameter("action.layers.0.ttt.q_proj.weight"),
        a.get_parameter("action.layers.1.ttt.q_proj.weight"),
    )


def test_attaching_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    bare_checkpoint(tmp_path, "pi0")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    attached(tmp_path)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_alignment_expert_starts_from_the_action_expert(tmp_path: Path, flavour: str) -> None:
    bare_checkpoint(tmp_path, flavour)
    done = attach(tmp_path / "bare", tmp_path / "whole", alignment_depth=2)
    assert done.copied_layers == (0, 1)
    state = load_policy(tmp_path / "whole").state_dict()
    for layer in (0, 1):
        for part in ("self_attn.q_proj.weight", "mlp.down_proj.weight"):
            ours = state[f"alignment.expert.layers.{layer}.{part}"]
            assert torch.equal(ours, state[f"action.layers.{layer}.{part}"])
    norm = state["alignment.expert.layers.0.input_layernorm.weight"]
    if flavour == "pi0":
        assert torch.equal(norm, state["action.layers.0.input_layernorm.weight"])
    else:  # its norms are adaptive: no such weight, and the new one leaves the scale at one
        assert not norm.any()


def test_layers_to_copy_are_spread_over_the_expert() -> None:
    assert copied_layers(pi0_config(alignment_depth=4)) == (0, 6, 11, 17)
    assert copied_layers(pi0_config(alignment_depth=18)) == tuple(range(18))
    assert copied_layers(pi0_config(alignment_depth=1)) == (17,)


def test_policy_keeps_every_number_of_its_source(tmp_path: Path) -> None:
    tensors = bare_checkpoint(tmp_path, "pi05", mixed=True)
    done = attached(tmp_path, stride=2)
    policy = load_policy(tmp_path / "whole")
    state = policy.state_dict()
    for key, tensor in tensors.items():
        if unused_because(key) is None:
            assert torch.equal(state[our_name(key)], tensor)
            assert state[our_name(key)].dtype == tensor.dtype
    assert policy.w0_W1.dtype == torch.float32
    assert policy.config.stride == 2
    assert set(done.added) == {"TTT layers and W0", "alignment", "state_proj", "vision"}
    assert sum(done.added.values()) + sum(
        t.numel() for k, t in tensors.items() if unused_because(k) is None
    ) == sum(t.numel() for t in state.values())


def test_only_the_layers_asked_for_get_ttt(tmp_path: Path) -> None:
    bare_checkpoint(tmp_path, "pi0")
    attached(tmp_path, ttt_layers=(1,))
    policy = load_policy(tmp_path / "whole")
    assert policy.base_w().layers == (1,)
    assert not any(".layers.0.ttt." in name for name in policy.state_dict())


def test_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    bare_checkpoint(tmp_path, "pi0")
    with pytest.raises(ModelError, match=r"ttt.layers \(0, 9\)"):
        attached(tmp_path, ttt_layers=(0, 9))
    assert not (tmp_path / "whole").exists()


def test_attaching_twice_is_refused(tmp_path: Path) -> None:
    bare_checkpoint(tmp_path, "pi0")
    attached(tmp_path)
    with pytest.raises(ModelError, match="has its TTT layers and alignment expert already"):
        attach(tmp_path / "whole", tmp_path / "again")


def test_damaged_source_is_refused(tmp_path: Path) -> None:
    bare_checkpoint(tmp_path, "pi0")
    config = (tmp_path / "bare" / "config.json").read_text(encoding="utf-8")
    damaged = config.replace('"mlp_dim": 20', '"mlp_dim": 21')
    (tmp_path / "bare" / "config.json").write_text(damaged, encoding="utf-8")
    with pytest.raises(ModelError, match="missing or unfit keys"):
        attached(tmp_path)
