"""The identity of a frozen model: that of its file, whatever precision it is loaded in.

It covers the weights but W0, config.json, and norm_stats.json where there is one: a W aligned on
numbers of one normalisation means nothing under another. The tokenizer does not count: it can be
stored in two ways, and alignment reads the empty prompt only.

Reading 7 GB at every start only to hash them costs seconds. A large file is read once; the result
lies beside it in identity.json, with the file's size and time of change, and counts while these
and the configuration are the same. It guards against mix-ups, not against an attacker: who can
write that file can write the weights too. Delete it to have the weights read again.
"""

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model.config import ModelConfig
from selfalign.model.hashing import sha256_of_parts
from selfalign.model.processing import Processing
from selfalign.model.tensor_file import TensorFile

_BESIDE = "identity.json"
# Below it, reading the file takes no time that anyone notices, and no file is put beside it.
LARGE_BYTES = 256 * 2**20


def identity_text(config: ModelConfig, processing: Processing | None) -> str:
    """What counts for the identity of a model beside its weights."""
    return config.identity() + ("" if processing is None else processing.identity())


def file_identity(
    file: TensorFile,
    config: ModelConfig,
    processing: Processing | None = None,
    *,
    large_bytes: int = LARGE_BYTES,
) -> str:
    """SHA-256 over everything in the file that is not W, the configuration and the processing.

    Of a file of at least `large_bytes` the result is kept beside it.

    Raises:
        ModelError: a weight is NaN or infinite. A file whose identity is known was found finite.
    """
    stat, text = file.stat(), identity_text(config, processing)
    key = {
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "config": sha256(text.encode()).hexdigest(),
    }
    beside = file.path.with_name(_BESIDE)
    if stat.st_size >= large_bytes and (known := _known(beside, key)) is not None:
        return known
    parts = (
        (name, entry.dtype, entry.shape, _finite(file, name))
        for name, entry in sorted(file.entries.items())
        if not name.startswith("w0_")
    )
    found = sha256_of_parts(parts, text)
    for name in file.entries:
        if name.startswith("w0_"):
            for _ in _finite(file, name):
                pass
    if stat.st_size >= large_bytes:
        _write(beside, {**key, "base_sha256": found})
    return found


def _finite(file: TensorFile, name: str) -> Iterator[Tensor]:
    for block in file.blocks(name):
        if not torch.isfinite(block).all():
            raise ModelError(f"{file.path}: {name} holds NaN or infinity")
        yield block


def _known(path: Path, key: dict[str, Any]) -> str | None:
    try:
        told = json.loads(path.read_bytes())
        found = told.pop("base_sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return found if told == key and isinstance(found, str) and len(found) == 64 else None


def _write(path: Path, told: dict[str, Any]) -> None:
    """Best effort: in a read-only directory the file is hashed at every start."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
