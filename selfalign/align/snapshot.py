"""Snapshots: one immutable value of W in a file, and a refusal for every kind of bad file.

A snapshot is a safetensors file (no code can hide in one) whose tensors are those of
`FastWeights.named()` and whose header holds, under the key `selfalign`, the metadata as JSON.
"""

import hashlib
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from selfalign.align.snapshot_errors import (
    SnapshotBadMetadata,
    SnapshotExists,
    SnapshotNormTooLarge,
    SnapshotNotFinite,
    SnapshotNotSafetensors,
    SnapshotTooBig,
    SnapshotTruncated,
    SnapshotWrongBase,
    SnapshotWrongDtype,
    SnapshotWrongKeys,
    SnapshotWrongShape,
)
from selfalign.align.snapshot_header import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    METADATA_KEY,
    SnapshotMeta,
    check_header,
    read_header,
    write_meta,
)
from selfalign.errors import SnapshotError
from selfalign.model.weights import FastWeights

__all__ = [
    "Snapshot",
    "SnapshotBadMetadata",
    "SnapshotError",
    "SnapshotExists",
    "SnapshotMeta",
    "SnapshotNormTooLarge",
    "SnapshotNotFinite",
    "SnapshotNotSafetensors",
    "SnapshotTooBig",
    "SnapshotTruncated",
    "SnapshotWrongBase",
    "SnapshotWrongDtype",
    "SnapshotWrongKeys",
    "SnapshotWrongShape",
    "decode_snapshot",
    "encode_snapshot",
    "read_snapshot",
    "write_snapshot",
]


@final
@dataclass(frozen=True)
class Snapshot:
    """A verified W. `sha256` (hex) and `nbytes` are those of the file's bytes."""

    meta: SnapshotMeta
    w: FastWeights
    sha256: str
    nbytes: int


def encode_snapshot(w: FastWeights, meta: SnapshotMeta) -> bytes:
    """Return the file of one W. The same W and metadata give the same bytes.

    Raises:
        SnapshotWrongDtype: W is not float32.
        SnapshotNotFinite: W holds NaN or infinity.
        SnapshotBadMetadata: a field of `meta` is outside its range.
    """
    if w.W1.dtype != torch.float32 or w.b1.dtype != torch.float32:
        msg = f"W is {w.W1.dtype} and {w.b1.dtype}, expected float32: the master copy of W"
        raise SnapshotWrongDtype(msg)
    tensors = {name: tensor.detach().cpu() for name, tensor in w.named().items()}
    _check_finite(tensors)
    data = safetensors.torch.save(tensors, metadata={METADATA_KEY: write_meta(meta)})
    (header_bytes,) = struct.unpack("<Q", data[:LENGTH_BYTES])
    if header_bytes > MAX_HEADER_BYTES:
        msg = f"snapshot metadata take {header_bytes} bytes, expected at most {MAX_HEADER_BYTES}"
        raise SnapshotBadMetadata(msg)
    return data


def decode_snapshot(
    data: bytes, *, like: FastWeights, base_sha256: str, max_norm: float | None
) -> Snapshot:
    """Verify the bytes of a snapshot completely and return it.

    Args:
        data: the file.
        like: a W of the model that will use it; fixes names and shapes.
        base_sha256: digest of the frozen model that will use it.
        max_norm: largest Euclidean norm of W, None for no limit.

    Raises:
        SnapshotError: a subclass for each kind of bad file.
    """
    prefix = data[: LENGTH_BYTES + MAX_HEADER_BYTES]
    meta = check_header(prefix, len(data), like=like, base_sha256=base_sha256)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise SnapshotNotSafetensors(f"not a safetensors file: {error}") from error
    _check_finite(tensors)
    w = FastWeights.from_named(tensors)
    _check_norm(w, max_norm)
    return Snapshot(meta, w, hashlib.sha256(data).hexdigest(), len(data))


def write_snapshot(path: Path, w: FastWeights, meta: SnapshotMeta) -> Snapshot:
    """Write a snapshot so that `path` holds all of it or nothing, also after a power cut.

    Writing the same snapshot to the same path again is allowed.

    Raises:
        SnapshotExists: the path holds something else; snapshots are never overwritten.
        SnapshotError: as `encode_snapshot`.
        OSError: the disk refused; nothing is left behind.
    """
    data = encode_snapshot(w, meta)
    if not (path.exists() and path.read_bytes() == data):
        _write_once(path, data)
    return Snapshot(meta, w.detach(), hashlib.sha256(data).hexdigest(), len(data))


def read_snapshot(
    path: Path, *, like: FastWeights, base_sha256: str, max_norm: float | None
) -> Snapshot:
    """Read and verify a snapshot file. Reads no further than the header if that is wrong.

    Raises:
        SnapshotError: a subclass for each kind of bad file; also if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = read_header(file)
            check_header(prefix, size, like=like, base_sha256=base_sha256)
            data = prefix + file.read(size - len(prefix))
    except OSError as error:
        raise SnapshotError(f"{path}: cannot read the snapshot: {error.strerror}") from error
    except SnapshotError as error:
        raise type(error)(f"{path}: {error}") from error
    try:
        return decode_snapshot(data, like=like, base_sha256=base_sha256, max_norm=max_norm)
    except SnapshotError as error:
        raise type(error)(f"{path}: {error}") from error


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            raise SnapshotNotFinite(f"tensor {name!r} holds {count} values that are not finite")


def _check_norm(w: FastWeights, max_norm: float | None) -> None:
    # In float64, and written so that a NaN limit or an overflow counts as too large.
    norm = float(w.map(lambda tensor: tensor.double()).norm())
    if max_norm is not None and not norm <= max_norm:
        raise SnapshotNormTooLarge(f"norm of W is {norm:.4g}, expected at most {max_norm:.4g}")


def _write_once(path: Path, data: bytes) -> None:
    temporary = _write_beside(path, data)
    try:
        # A hard link, unlike a rename, fails if the path exists.
        os.link(temporary, path)
    except FileExistsError as error:
        msg = f"{path}: holds another snapshot already; choose a new version"
        raise SnapshotExists(msg) from error
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_beside(path: Path, data: bytes) -> Path:
    """Write and fsync `data` under a name of its own in the directory of `path`."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        Path(name).unlink()
        raise
    return Path(name)
