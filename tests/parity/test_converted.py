"""A checkpoint of openpi's keys, converted and attached, computes what openpi computes from it.

The keys and shapes are those that openpi itself writes (make_openpi_fixtures.py).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from selfalign.align.robot_io import RobotIO
from selfalign.data.observation import Observation
from selfalign.data.spec import Camera, Dimension, RobotSpec
from selfalign.model.attach import attach
from selfalign.model.checkpoint import load_policy
from selfalign.model.convert import convert
from selfalign.model.keys import our_name
from selfalign.model.policy import Policy
from tests.parity.published import (
    difference,
    prefix_of,
    published_name,
    seeded_policy,
    small_config,
)
from tests.parity.seeded import Geometry, inputs, weight

HERE = Path(__file__).parent
GEOMETRY = Geometry()
LIMIT = 1e-5
PIECES = HERE / "pieces.model"


def published_checkpoint(directory: Path, flavour: str, numbers: int) -> Path:
    """A directory as openpi's converter leaves it, with the tokenizer put beside."""
    keys = json.loads((HERE / f"openpi_{flavour}_keys.json").read_text("utf-8"))
    tensors = {name: torch.from_numpy(weight(name, tuple(shape))) for name, shape in keys.items()}
    (directory / "assets" / "arm").mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors")
    told = {"action_dim": GEOMETRY.action_dim, "action_horizon": GEOMETRY.horizon}
    (directory / "config.json").write_text(json.dumps(told), "utf-8")
    stats = {"mean": [1.0] * numbers, "std": [2.0] * numbers}
    stats |= {"q01": [-3.0] * numbers, "q99": [5.0] * numbers}
    text = json.dumps({"norm_stats": {"state": stats, "actions": stats}})
    (directory / "assets" / "arm" / "norm_stats.json").write_text(text, "utf-8")
    (directory / "tokenizer.model").write_bytes(PIECES.read_bytes())
    return directory


def converted(tmp_path: Path, flavour: str, numbers: int = 3) -> Policy:
    source = published_checkpoint(tmp_path / "published", flavour, numbers)
    like = small_config(GEOMETRY, flavour)
    convert(source, tmp_path / "ours", like=like)
    attach(tmp_path / "ours", tmp_path / "attached", alignment_depth=1)
    return load_policy(tmp_path / "attached")


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_our_names_are_those_of_the_key_map(flavour: str) -> None:
    names = seeded_policy(GEOMETRY, flavour).state_dict()
    theirs = {name: published_name(name) for name in names}
    assert all(name == our_name(key) for name, key in theirs.items() if key is not None)


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_a_converted_checkpoint_computes_what_openpi_computes(tmp_path: Path, flavour: str) -> None:
    policy, given = converted(tmp_path, flavour), inputs(GEOMETRY)
    theirs = load_file(HERE / f"openpi_{flavour}.safetensors")
    noise, state = torch.from_numpy(given.noise), torch.from_numpy(given.state)
    w, clock = policy.base_w(), torch.full((len(noise),), 0.7)
    with torch.no_grad():
        prefix = prefix_of(policy, given)
        velocity = policy.predict(prefix, state, noise, clock, w)
        chunk = policy.act(prefix, state, w, noise=noise)
    assert policy.config.flow_clock == "summed"
    assert difference(velocity, theirs["velocity_0.7"]) <= LIMIT
    assert difference(chunk, theirs["chunk"]) <= LIMIT


@pytest.mark.parametrize(("flavour", "state"), [("pi0", 1.5), ("pi05", 0.75)])
def test_its_robot_is_normalised_and_prompted_by_its_files(
    tmp_path: Path, flavour: str, state: float
) -> None:
    policy = converted(tmp_path, flavour)
    policy.prompts.max_tokens = 60
    dimensions = [Dimension(name=f"n{i}", unit="", low=-9, high=9) for i in range(3)]
    camera = Camera(name="base_0_rgb", height=20, width=28)
    spec = RobotSpec(name="arm", rate_hz=10, cameras=(camera,), state=dimensions, action=dimensions)
    image = np.full((20, 28, 3), 255, np.uint8)
    seen = Observation({"base_0_rgb": image}, np.full(3, 4.0, np.float32), "pick up the cube")
    found = RobotIO(policy, spec).encode([seen])
    np.testing.assert_allclose(found.state[0, :3], state, atol=1e-5)
    pieces = [policy.prompts.tokenizer.id_to_token(i) for i in found.tokens[0].tolist()]
    # The small tokenizer has no piece for a 3 and spells it as a byte.
    read = "".join(pieces).replace("\u2581", " ").replace("<0x33>", "3")
    prompts = {
        "pi0": "<s>pick up the cube\n",
        # 0.75 less openpi's 1e-6, which stands on the edge of bin 224.
        "pi05": "<s>Task: pick up the cube, State: 223 223 223;\nAction: ",
    }
    assert read == prompts[flavour]
