"""A program: convert, attach and load a checkpoint, and print the memory that it took, as JSON.

    python -m tests.selfalign.model.measure_memory SOURCE DIR GEOMETRY PRECISION LOAD_PRECISION

Peaks are of resident memory, above that of the interpreter with its libraries [byte]: after
conversion, after attaching, and after every weight of the loaded policy was read. `anonymous` is
what of the last is no page of a file, `weights` the size of the loaded weights.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Literal

import torch

from selfalign.model.attach import attach
from selfalign.model.checkpoint import load_policy
from selfalign.model.convert import convert
from tests.fakes.published import GEOMETRIES


def peak() -> int:
    """Of this program alone: getrusage starts at what the parent had when it started us."""
    return _row("/proc/self/status", "VmHWM:")


def anonymous() -> int:
    return _row("/proc/self/smaps_rollup", "Anonymous:")


def _row(path: str, name: str) -> int:
    rows = Path(path).read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith(name))


def main(
    source: Path, folder: Path, geometry: str, dtype: Literal["bfloat16", "float32"], loaded: str
) -> dict[str, int]:
    torch.set_num_threads(1)
    base, told = peak(), {}
    convert(source, folder / "bare", like=GEOMETRIES[geometry](), dtype=dtype)
    told["convert"] = peak() - base
    # At full width each copy is gigabytes of disk.
    shutil.rmtree(source)
    attach(folder / "bare", folder / "whole", alignment_depth=1)
    told["attach"] = peak() - base
    shutil.rmtree(folder / "bare")
    before = anonymous()
    policy = load_policy(folder / "whole", dtype=getattr(torch, loaded))
    for parameter in policy.parameters():
        for part in parameter.view(-1).split(2**20):
            part.sum()
    told["load"] = peak() - base
    told["anonymous"] = anonymous() - before
    told["weights"] = sum(parameter.nbytes for parameter in policy.parameters())
    return told


if __name__ == "__main__":
    _, where, to, *words = sys.argv
    print(json.dumps(main(Path(where), Path(to), *words)))  # type: ignore[arg-type]
