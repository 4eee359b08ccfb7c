"""Safetensors files, read and written block by block: no weight is in memory twice.

The library's own reader maps a file and counts every page that it touches; its writer takes all
tensors at once. A checkpoint of 14 GB has to pass through a few MB instead.
"""

import json
import math
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from selfalign.errors import ModelError

BLOCK_BYTES = 4 * 2**20
# The library's own limit. A longer header is no header.
_HEADER_LIMIT_BYTES = 100_000_000
# Data starts at a multiple of it, so that vector units find aligned rows in a mapped file.
_ALIGNMENT_BYTES = 64
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@final
@dataclass(frozen=True)
class Entry:
    """One tensor of a file: what it is, and where its bytes start in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.numel * self.dtype.itemsize


@final
class TensorFile:
    """The header of a safetensors file, and ways to its numbers.

    It stays with the file that it opened, even when another takes its name.
    """

    def __init__(self, path: Path) -> None:
        """Read and check the header. Raises ModelError."""
        if not path.is_file():
            raise ModelError(f"{path} does not exist; a model directory has a {path.name}")
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        try:
            self.entries = _read_entries(self._descriptor)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} is not a safetensors file: {error}") from None

    def stat(self) -> os.stat_result:
        """Size and times of the file."""
        return os.fstat(self._descriptor)

    def blocks(self, name: str, block_bytes: int = BLOCK_BYTES) -> Iterator[Tensor]:
        """The numbers of a tensor in order: flat tensors of at most so many bytes, each its own."""
        entry = self.entries[name]
        at, end = entry.start, entry.start + entry.nbytes
        while at < end:
            block = torch.empty(min(end - at, block_bytes), dtype=torch.uint8)
            self._fill(block.numpy().data, at)
            at += block.numel()
            yield block.view(entry.dtype)

    def read(self, name: str, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """A tensor of its own, in this precision and place, cast on the way."""
        entry = self.entries[name]
        flat = torch.empty(entry.numel, dtype=dtype, device=device)
        at = 0
        for block in self.blocks(name):
            flat[at : at + block.numel()] = block
            at += block.numel()
        return flat.view(entry.shape)

    def mapped(self, name: str) -> Tensor:
        """The tensor where it lies in the file. Nothing is read before it is used.

        The mapping is private: a write to the tensor stays in this process. Processes that map the
        same file share its pages.
        """
        entry = self.entries[name]
        if not entry.numel:
            return torch.empty(entry.shape, dtype=entry.dtype)
        flat = torch.frombuffer(self._map, dtype=entry.dtype, count=entry.numel, offset=entry.start)
        return flat.view(entry.shape)

    @cached_property
    def _map(self) -> mmap.mmap:
        made = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_COPY)
        # Ask for the file now, so that the first use of a weight does not wait for the disk.
        made.madvise(mmap.MADV_WILLNEED)
        return made

    def _fill(self, target: memoryview, at: int) -> None:
        done = 0
        while done < len(target):
            count = os.preadv(self._descriptor, [target[done:]], at + done)
            if not count:
                raise ModelError(f"{self.path} became shorter while it was read")
            done += count


@final
@dataclass(frozen=True)
class Planned:
    """A tensor to be written: what it will be, and its numbers in order, of any precision."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[Tensor]]


def write_tensors(path: Path, plan: Mapping[str, Planned]) -> None:
    """Write a safetensors file. An old file of that name stays whole until the new one is."""
    order = sorted(plan, key=lambda name: (-plan[name].dtype.itemsize, name))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(_header(order, plan))
            for name in order:
                _write_one(file.write, name, plan[name])
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_one(write: Callable[[Any], int], name: str, planned: Planned) -> None:
    written = 0
    for block in planned.blocks():
        flat = block.detach().to(device="cpu", dtype=planned.dtype).contiguous().view(-1)
        written += flat.numel()
        write(flat.view(torch.uint8).numpy().data)
    if written != math.prod(planned.shape):
        raise ModelError(f"{name}: {written} numbers came, {planned.shape} takes another count")


def _header(order: list[str], plan: Mapping[str, Planned]) -> bytes:
    at = 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name in order:
        planned = plan[name]
        end = at + math.prod(planned.shape) * planned.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[planned.dtype],
            "shape": list(planned.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


def _read_entries(descriptor: int) -> dict[str, Entry]:
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if size < 8 or length > min(_HEADER_LIMIT_BYTES, size - 8):
        raise ValueError(f"its header would take {length} of its {size} bytes")
    header = json.loads(os.pread(descriptor, length, 8))
    header.pop("__metadata__", None)
    base = 8 + length
    spans: list[tuple[int, int]] = []
    entries: dict[str, Entry] = {}
    for name, told in header.items():
        entries[name], span = _entry(name, told, base)
        spans.append(span)
    at = 0
    for start, end in sorted(spans):
        if start != at or end < start:
            raise ValueError(f"its tensors leave a hole or overlap at byte {min(start, at)}")
        at = end
    if base + at != size:
        raise ValueError(f"its tensors end at byte {base + at}, the file at {size}")
    return entries


def _entry(name: str, told: dict[str, Any], base: int) -> tuple[Entry, tuple[int, int]]:
    start, end = map(int, told["data_offsets"])
    if told["dtype"] not in _DTYPES:
        raise ValueError(f"{name} is of type {told['dtype']}, weights are {', '.join(_DTYPES)}")
    entry = Entry(_DTYPES[told["dtype"]], tuple(map(int, told["shape"])), base + start)
    if entry.nbytes != end - start or min((0, *entry.shape)) < 0:
        raise ValueError(f"{name} is {entry.shape}, but has {end - start} bytes")
    return entry, (start, end)
