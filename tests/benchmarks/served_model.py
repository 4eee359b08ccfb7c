"""The model that the server under test serves, and made-up W for it."""

from __future__ import annotations

import torch

from selfalign.align.snapshot import SnapshotMeta, encode_snapshot
from selfalign.model.checkpoint import load_policy, shipped_model_dir
from selfalign.model.policy import Policy
from server.settings import Settings


def load_served_policy() -> Policy:
    """The model of `SELFALIGN_MODEL_DIR`, else the shipped one, as the server chooses it."""
    return load_policy(Settings().model_dir or shipped_model_dir())


def snapshot_near_base(policy: Policy, robot: str, seed: int) -> bytes:
    """A snapshot whose W lies near the base; another one for each seed."""
    generator = torch.Generator().manual_seed(seed)
    w = policy.base_w().map(lambda x: x + 0.05 * torch.randn(x.shape, generator=generator))
    meta = SnapshotMeta(
        version=seed,
        parent=0,
        robot=robot,
        base_sha256=policy.base_sha256,
        session=None,
        created_at="2026-01-01T00:00:00+00:00",
        steps=0,
        play_steps=0,
        metrics={},
        note="benchmark",
    )
    return encode_snapshot(w, meta)
