"""A safetensors file that is written row by row, in any order, without its tensors in memory."""

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {torch.float16: "F16", torch.float32: "F32", torch.bool: "BOOL"}
# Data starts at a multiple of it, so that vector units find aligned rows.
_ALIGNMENT_BYTES = 64


def create_tensors(
    path: Path, plan: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> dict[str, Tensor]:
    """Create a safetensors file of zeros; what is written to its tensors goes to the file.

    An old file of that name is overwritten. Raises OSError where the disk is too small.
    """
    # The widest numbers first, so that every tensor is aligned.
    order = sorted(plan, key=lambda name: -plan[name][0].itemsize)
    spans, at = {}, 0
    for name in order:
        dtype, shape = plan[name]
        spans[name] = (at, at + math.prod(shape) * dtype.itemsize)
        at = spans[name][1]
    header = json.dumps(
        {
            name: {"dtype": _NAMES[plan[name][0]], "shape": plan[name][1], "data_offsets": span}
            for name, span in spans.items()
        }
    ).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNMENT_BYTES)
    base = 8 + len(header)
    with path.open("w+b") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(base + at)
        file.flush()
        whole = mmap.mmap(file.fileno(), 0)
    return {
        name: torch.frombuffer(
            whole, dtype=dtype, count=math.prod(shape), offset=base + spans[name][0]
        ).view(shape)
        for name, (dtype, shape) in plan.items()
    }
