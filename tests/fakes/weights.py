"""Small W and snapshots of them."""

import torch

from selfalign.align.snapshot import SnapshotMeta, encode_snapshot
from selfalign.model.weights import FastWeights

BASE_SHA256 = "b" * 64


def make_w(value: float = 0.0) -> FastWeights:
    """A W of two layers whose numbers are all `value`."""
    return FastWeights(
        torch.full((2, 2, 4, 4), value), torch.full((2, 2, 1, 4), value), layers=(0, 2)
    )


def snapshot_bytes(
    value: float,
    *,
    robot: str = "arm",
    base_sha256: str = BASE_SHA256,
    spec_sha256: str | None = None,
) -> bytes:
    """A snapshot file of `make_w(value)`."""
    meta = SnapshotMeta(
        version=1,
        parent=0,
        robot=robot,
        base_sha256=base_sha256,
        session="s-1",
        created_at="2026-11-24T06:00:00+00:00",
        steps=50,
        play_steps=128,
        metrics={"alignment/total": value},
        note="",
        spec_sha256=spec_sha256,
    )
    return encode_snapshot(make_w(value), meta)
