"""A good snapshot file, and files that differ from it in one thing."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from selfalign.align.snapshot import Snapshot, SnapshotMeta, decode_snapshot, encode_snapshot
from selfalign.model.weights import FastWeights

BASE = "ab" * 32
META = SnapshotMeta(
    version=17,
    parent=16,
    robot="sim_panda",
    base_sha256=BASE,
    session="s-3",
    created_at="2026-11-24T06:00:00Z",
    steps=50,
    play_steps=128,
    metrics={"alignment/total": 0.25},
    note="after moving the camera",
    spec_sha256="cd" * 32,
)


def make_w(
    *, layers: tuple[int, ...] = (0, 2), heads: int = 2, dim: int = 4, seed: int = 0
) -> FastWeights:
    """A small random W."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(layers), heads)
    return FastWeights(
        0.02 * torch.randn(*shape, dim, dim, generator=generator),
        0.02 * torch.randn(*shape, 1, dim, generator=generator),
        layers,
    )


W = make_w()
GOOD = encode_snapshot(W, META)


def decode(data: bytes, **changes: Any) -> Snapshot:
    """Decode as the server does, or otherwise by `changes`."""
    options: dict[str, Any] = {"like": W, "base_sha256": BASE, "max_norm": 10.0} | changes
    return decode_snapshot(data, **options)


def header_of(data: bytes) -> dict[str, Any]:
    """The safetensors header."""
    (length,) = struct.unpack("<Q", data[:8])
    found: dict[str, Any] = json.loads(data[8 : 8 + length])
    return found


def with_header(header: str | dict[str, Any], tensors: bytes | None = None) -> bytes:
    """Return a file of the good tensors under another header (text or object)."""
    (length,) = struct.unpack("<Q", GOOD[:8])
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return (
        struct.pack("<Q", len(text)) + text + (GOOD[8 + length :] if tensors is None else tensors)
    )


def with_meta(**changes: Any) -> bytes:
    """Return a file with fields of our metadata replaced."""
    header = header_of(GOOD)
    fields = json.loads(header["__metadata__"]["selfalign"]) | changes
    header["__metadata__"]["selfalign"] = json.dumps(fields)
    return with_header(header)


def with_tensors(**changes: torch.Tensor | None) -> bytes:
    """Return a file with tensors replaced; None takes one away."""
    tensors = load(GOOD) | {name.replace("_", "."): x for name, x in changes.items()}
    kept = {name: x for name, x in tensors.items() if x is not None}
    return save(kept, metadata=header_of(GOOD)["__metadata__"])


def refused(data: bytes, error: type[Exception], said: str | None = None, **changes: Any) -> None:
    """Decoding raises exactly this error, which says that."""
    with pytest.raises(error, match=said) as caught:
        decode(data, **changes)
    assert type(caught.value) is error
