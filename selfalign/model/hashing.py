"""The identity of a set of tensors."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def sha256_of(tensors: Mapping[str, Tensor], salt: str = "") -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes, in the order of names."""
    digest = hashlib.sha256(salt.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
