"""Peak memory of converting, attaching and loading, measured in a process of its own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from selfalign.model.tensor_file import Planned, write_tensors
from tests.fakes.published import GEOMETRIES, published_shapes, write_checkpoint

ROOT = Path(__file__).parents[3]
MIB = 2**20


def random_blocks(shape: tuple[int, ...]) -> Iterator[Tensor]:
    block = torch.rand(MIB).sub_(0.5).mul_(0.05)
    left = torch.Size(shape).numel()
    while left:
        count = min(left, MIB)
        yield block[:count]
        left -= count


def measured(root: Path, geometry: str, *, written: torch.dtype, loaded: str) -> dict[str, int]:
    """A checkpoint that was never in memory as a whole, and what our process takes for it."""
    source = write_checkpoint(root / "source", {}, {"action_dim": 32, "action_horizon": 50})
    shapes = published_shapes(GEOMETRIES[geometry]())
    plan = {key: Planned(written, s, partial(random_blocks, s)) for key, s in shapes.items()}
    write_tensors(source / "model.safetensors", plan)
    precision = str(written).removeprefix("torch.")
    program = [sys.executable, "-m", "tests.selfalign.model.measure_memory"]
    done = subprocess.run(
        [*program, str(source), str(root), geometry, precision, loaded],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    print(done.stdout)
    # pytest keeps the folders of three runs, and these are large.
    shutil.rmtree(root / "whole")
    return json.loads(done.stdout)


def test_loading_takes_no_more_than_the_weights(tmp_path: Path) -> None:
    told = measured(tmp_path, "medium", written=torch.bfloat16, loaded="bfloat16")
    assert told["weights"] > 60 * MIB
    # Beside the weights some 20 MiB: blocks, and pages of libraries that are used the first time.
    assert told["load"] < 1.15 * told["weights"] + 32 * MIB
    assert told["attach"] < 64 * MIB
    # The weights are pages of the file, which the align worker shares.
    assert told["anonymous"] < 32 * MIB


@pytest.mark.slow
@pytest.mark.parametrize(
    # In float32 each copy of the whole geometry takes 5 GB of disk.
    ("geometry", "written"),
    [("full width", torch.bfloat16), ("full width, short table", torch.float32)],
)
def test_full_width_loads_within_its_weights(
    tmp_path: Path, geometry: str, written: torch.dtype
) -> None:
    told = measured(tmp_path, geometry, written=written, loaded="bfloat16")
    assert told["weights"] > 1.5e9
    assert told["load"] < 1.15 * told["weights"]
    assert told["convert"] < 0.05 * told["weights"]
    assert told["attach"] < 0.15 * told["weights"]
    if written == torch.bfloat16:
        assert told["anonymous"] < 0.05 * told["weights"]
