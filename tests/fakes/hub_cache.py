"""The local cache of the Hugging Face Hub, as huggingface_hub lays it out."""

from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def go_offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """Let huggingface_hub use this cache and no network. It reads the environment only once."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def cached(cache: Path, folder: str, refs: dict[str, str]) -> Path:
    """Make room for one repository, such as models--org--name; returns its snapshot's folder."""
    for name, commit in refs.items():
        (cache / folder / "refs").mkdir(parents=True, exist_ok=True)
        (cache / folder / "refs" / name).write_text(commit)
    snapshot = cache / folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot
