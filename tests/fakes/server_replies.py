"""Bodies that a real server would send, for clients under test."""

from __future__ import annotations

import hashlib
import json
from typing import Any

W_BYTES = b"the bytes of a snapshot"
W_SHA256 = hashlib.sha256(W_BYTES).hexdigest()

SPEC: dict[str, Any] = {
    "name": "arm",
    "rate_hz": 10.0,
    "cameras": [{"name": "front", "height": 4, "width": 6}],
    "state": [{"name": "joint", "unit": "rad", "low": -1.0, "high": 3.0}],
    "action": [{"name": "dx", "unit": "m", "low": -0.1, "high": 0.1}],
}
ROBOT = {"robot": "arm", "digest": "d" * 64, "w_version": 1, "w_sha256": W_SHA256, "spec": SPEC}
INFO = {
    "version": "0.1.0",
    "model": {
        "variant": "dummy",
        "flavour": "pi0",
        "base_sha256": "b" * 64,
        "parameters": 1234,
        "w_parameters": 56,
        "image_size": 32,
        "horizon": 4,
        "device": "cpu",
    },
    "default_robot": "arm",
    "robots": [ROBOT],
    "align_mode": "process",
    "max_body_bytes": 1000,
    "uptime_s": 75.0,
}
SNAPSHOT = {
    "version": 1,
    "robot": "arm",
    "parent": 0,
    "sha256": W_SHA256,
    "base_sha256": "b" * 64,
    "created_at": "2026-11-24T06:00:00+00:00",
    "session": "s-1",
    "steps": 50,
    "play_steps": 130,
    "metrics": {"alignment/total": 0.25},
    "spec_sha256": "d" * 64,
    "status": "active",
    "nbytes": len(W_BYTES),
}
VERSIONS = {"robot": "arm", "active": 1, "versions": [SNAPSHOT]}
EPISODES: dict[str, Any] = {
    "episodes": [
        {
            "id": "e1",
            "robot": "arm",
            "length": 130,
            "seconds": 13.0,
            "sealed": True,
            "created_at": "2026-11-24T06:00:00+00:00",
            "bytes": 5000,
        }
    ],
    "free_bytes": 2_000_000_000,
    "quota_bytes": 4_000_000_000,
}


def session(state: str = "succeeded", **changes: Any) -> dict[str, Any]:
    """One alignment session."""
    body: dict[str, Any] = {
        "id": "s-1",
        "robot": "arm",
        "state": state,
        "step": 50,
        "steps": 50,
        "elapsed_s": 1.5,
        "play_steps": 130,
        "losses": {"alignment/total": 0.25},
        "held_out": {"before": 2.0, "after": 0.5},
        "candidate": 1,
        "gates": {"passed": True, "checks": []},
    }
    return body | changes


def event_stream(*events: tuple[str, dict[str, Any]], first: int = 1) -> bytes:
    """Server-sent events `(kind, data)`, numbered from `first` on."""
    texts = [
        f"id: s-1:{first + i}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
        for i, (kind, data) in enumerate(events)
    ]
    return "".join([": ping\n\n", *texts]).encode()
