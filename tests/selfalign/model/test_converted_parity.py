"""Converted, attached and loaded, a published file acts as openpi does."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfalign.model.attach import attach
from selfalign.model.checkpoint import load_policy
from selfalign.model.convert import convert
from tests.fakes.models import random_w
from tests.fakes.published import published_shapes, write_checkpoint
from tests.parity.published import difference, prefix_of, small_config
from tests.parity.seeded import Geometry, inputs, weight

FIXTURES = Path(__file__).parents[2] / "parity"


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_converted_policy_makes_openpis_chunk(tmp_path: Path, flavour: str, prefix: str) -> None:
    geometry = Geometry()
    config = small_config(geometry, flavour)
    tensors = {
        prefix + key: torch.from_numpy(weight(key, shape))
        for key, shape in published_shapes(config).items()
    }
    told = {"action_dim": geometry.action_dim, "action_horizon": geometry.horizon}
    write_checkpoint(tmp_path / "published", tensors, told)
    convert(tmp_path / "published", tmp_path / "bare", like=config)
    attach(tmp_path / "bare", tmp_path / "whole", alignment_depth=1)
    policy, given = load_policy(tmp_path / "whole"), inputs(geometry)
    state, noise = torch.from_numpy(given.state), torch.from_numpy(given.noise)
    chunk = policy.act(prefix_of(policy, given), state, random_w(policy), noise=noise)
    theirs = load_file(FIXTURES / f"openpi_{flavour}.safetensors")["chunk"]
    assert difference(chunk, theirs) <= 1e-5
