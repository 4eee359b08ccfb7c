"""The identity of a set of tensors."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Part = tuple[str, torch.dtype, tuple[int, ...], Iterable[Tensor]]


def sha256_of(tensors: Mapping[str, Tensor], salt: str = "") -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes, in the order of names."""
    parts = ((name, t.dtype, tuple(t.shape), (t,)) for name, t in sorted(tensors.items()))
    return sha256_of_parts(parts, salt)


def sha256_of_parts(parts: Iterable[Part], salt: str) -> str:
    """The same over (name, dtype, shape, blocks of its numbers in order); the caller sorts."""
    digest = hashlib.sha256(salt.encode())
    for name, dtype, shape, blocks in parts:
        digest.update(f"{name}|{dtype}|{shape}|".encode())
        for block in blocks:
            flat = block.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
