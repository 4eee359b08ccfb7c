"""Snapshots: one immutable value of W in a file, and a refusal for every kind of bad file.

A snapshot is a safetensors file (no code can hide in one) whose tensors are those of
`FastWeights.named()` and whose header holds, under the key `selfalign`, the metadata as JSON. The
header is checked against the W that the model expects before any tensor is read, so a hostile
header can neither allocate memory nor choose shapes.
"""

import hashlib
import json
import math
import os
import struct
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar, final

import safetensors.torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError

from selfalign.errors import SnapshotError
from selfalign.model.weights import FastWeights

METADATA_KEY = "selfalign"
MAX_HEADER_BYTES = 1 << 20
_LENGTH_BYTES = 8
_FORMAT = 1


@final
class SnapshotTruncated(SnapshotError):
    """The file ends before its header or its tensors do."""


@final
class SnapshotNotSafetensors(SnapshotError):
    """The bytes are no well-formed safetensors file."""


@final
class SnapshotTooBig(SnapshotError):
    """The file, or what its header claims, is larger than a snapshot of this model can be."""


@final
class SnapshotBadMetadata(SnapshotError):
    """The metadata are missing, malformed or outside their ranges."""


@final
class SnapshotWrongBase(SnapshotError):
    """The snapshot was aligned on another frozen model."""


@final
class SnapshotWrongKeys(SnapshotError):
    """Tensors of W are missing, or there are tensors that are not part of W."""


@final
class SnapshotWrongDtype(SnapshotError):
    """A tensor is not float32."""


@final
class SnapshotWrongShape(SnapshotError):
    """A tensor has another shape than the model's."""


@final
class SnapshotNotFinite(SnapshotError):
    """A tensor holds NaN or infinity."""


@final
class SnapshotNormTooLarge(SnapshotError):
    """The norm of W is beyond the limit: alignment has blown up."""


@final
class SnapshotExists(SnapshotError):
    """The path already holds another snapshot; a snapshot is never overwritten."""


Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
FiniteMetric = Annotated[float, Field(allow_inf_nan=False)]


@final
@dataclass(frozen=True)
class SnapshotMeta:
    """Where a W comes from. Written into its file, so it is part of what the sha256 covers.

    Attributes:
        version: number of this W in the robot's lineage; 0 is the base.
        parent: version that alignment started from, None for the base.
        robot: name of the robot's spec.
        base_sha256: digest of the frozen model it belongs to.
        session: alignment session that made it, None if made otherwise.
        created_at: ISO 8601 time in UTC.
        steps: alignment steps taken since the parent.
        play_steps: play steps that they drew from.
        metrics: named results, all finite.
        note: free words of the operator.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    version: Count
    parent: Count | None
    robot: Name
    base_sha256: Name
    session: Name | None
    created_at: Annotated[str, Field(max_length=40)]
    steps: Count
    play_steps: Count
    metrics: Annotated[dict[str, FiniteMetric], Field(max_length=256)] = field(default_factory=dict)
    note: Annotated[str, Field(max_length=4096)] = ""


@final
@dataclass(frozen=True)
class Snapshot:
    """A verified W. `sha256` (hex) and `nbytes` are those of the file's bytes."""

    meta: SnapshotMeta
    w: FastWeights
    sha256: str
    nbytes: int


_META = TypeAdapter(SnapshotMeta)


def encode_snapshot(w: FastWeights, meta: SnapshotMeta) -> bytes:
    """Return the file of one W. The same W and metadata give the same bytes.

    Raises:
        SnapshotNotFinite: W holds NaN or infinity.
        SnapshotBadMetadata: a field of `meta` is outside its range.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in w.named().items()}
    _check_finite(tensors)
    try:
        text = json.dumps({"format": _FORMAT, **asdict(meta)}, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SnapshotBadMetadata(f"snapshot metadata cannot be written: {error}") from error
    _parse_meta(text)
    data = safetensors.torch.save(tensors, metadata={METADATA_KEY: text})
    (header_bytes,) = struct.unpack("<Q", data[:_LENGTH_BYTES])
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
    prefix = data[: _LENGTH_BYTES + MAX_HEADER_BYTES]
    meta = _check_layout(prefix, len(data), like=like, base_sha256=base_sha256)
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
            prefix = _read_header(file)
            _check_layout(prefix, size, like=like, base_sha256=base_sha256)
            data = prefix + file.read(size - len(prefix))
    except OSError as error:
        raise SnapshotError(f"{path}: cannot read the snapshot: {error.strerror}") from error
    except SnapshotError as error:
        raise type(error)(f"{path}: {error}") from error
    try:
        return decode_snapshot(data, like=like, base_sha256=base_sha256, max_norm=max_norm)
    except SnapshotError as error:
        raise type(error)(f"{path}: {error}") from error


def _check_layout(prefix: bytes, size: int, *, like: FastWeights, base_sha256: str) -> SnapshotMeta:
    """Check everything that the header says; `size` is that of the whole file [byte]."""
    header, header_end = _parse_header(prefix, size)
    meta = _read_meta(header.pop("__metadata__", None))
    if meta.base_sha256 != base_sha256:
        msg = (
            f"snapshot belongs to frozen model {meta.base_sha256[:12]}, but {base_sha256[:12]} "
            "is loaded; align again on this model"
        )
        raise SnapshotWrongBase(msg)
    expected = like.shapes()
    _check_keys(header, expected)
    for name, shape in expected.items():
        _check_entry(name, header[name], shape)
    _check_offsets(header, expected, size - header_end)
    return meta


def _read_header(file: BinaryIO) -> bytes:
    start = file.read(_LENGTH_BYTES)
    if len(start) < _LENGTH_BYTES:
        return start
    (length,) = struct.unpack("<Q", start)
    return start + file.read(min(length, MAX_HEADER_BYTES))


def _parse_header(prefix: bytes, size: int) -> tuple[dict[str, Any], int]:
    if size < _LENGTH_BYTES:
        raise SnapshotTruncated(f"{size} bytes, expected a safetensors file of more than 8")
    (length,) = struct.unpack("<Q", prefix[:_LENGTH_BYTES])
    if length > MAX_HEADER_BYTES:
        msg = f"not a safetensors file: header of {length} bytes, at most {MAX_HEADER_BYTES}"
        raise SnapshotNotSafetensors(msg)
    end = _LENGTH_BYTES + length
    if end > size:
        raise SnapshotTruncated(f"{size} bytes, but the header alone ends at {end}")
    try:
        header = json.loads(prefix[_LENGTH_BYTES:end], object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise SnapshotNotSafetensors(f"not a safetensors file: bad header: {error}") from error
    if not isinstance(header, dict):
        kind = type(header).__name__
        raise SnapshotNotSafetensors(f"not a safetensors file: header is a {kind}, not an object")
    return header, end


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _read_meta(metadata: object) -> SnapshotMeta:
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        msg = f"not a snapshot of W: its header has no metadata under {METADATA_KEY!r}"
        raise SnapshotBadMetadata(msg)
    return _parse_meta(text)


def _parse_meta(text: str) -> SnapshotMeta:
    try:
        fields = json.loads(text, object_pairs_hook=_no_duplicates)
        if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
            raise SnapshotBadMetadata(f"snapshot metadata: expected an object of format {_FORMAT}")
        meta = _META.validate_json(json.dumps(fields))
        offset = datetime.fromisoformat(meta.created_at).utcoffset()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        got = repr(first["input"])[:80]
        raise SnapshotBadMetadata(
            f"snapshot metadata {where}: {first['msg']}, got {got}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SnapshotBadMetadata(f"snapshot metadata: {error}") from error
    if offset != timedelta(0):
        msg = f"snapshot metadata created_at: expected ISO 8601 in UTC, got {meta.created_at!r}"
        raise SnapshotBadMetadata(msg)
    return meta


def _check_keys(header: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(expected.keys() - header.keys())
    extra = sorted(header.keys() - expected.keys())
    if missing or extra:
        problem = f"{missing[0]!r} is missing" if missing else f"{extra[0][:80]!r} is not part of W"
        msg = f"{problem}; expected exactly the {len(expected)} tensors of this model's W"
        raise SnapshotWrongKeys(msg)


def _check_entry(name: str, entry: object, shape: tuple[int, ...]) -> None:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise SnapshotNotSafetensors(f"not a safetensors file: bad header entry for {name!r}")
    if entry["dtype"] != "F32":
        got = str(entry["dtype"])[:20]
        raise SnapshotWrongDtype(f"tensor {name!r} has dtype {got}, expected F32")
    if entry["shape"] != list(shape):
        got = str(entry["shape"])[:80]
        raise SnapshotWrongShape(f"tensor {name!r} has shape {got}, expected {list(shape)}")


def _check_offsets(
    header: dict[str, Any], expected: dict[str, tuple[int, ...]], available: int
) -> None:
    """Check that the tensors fill the rest of the file [byte] without gap or overlap."""
    spans = []
    for name, shape in expected.items():
        offsets = header[name]["data_offsets"]
        if not (isinstance(offsets, list) and all(type(o) is int for o in offsets)):
            raise SnapshotNotSafetensors(f"not a safetensors file: bad offsets of {name!r}")
        spans.append((offsets, 4 * math.prod(shape)))
    end = 0
    for offsets, nbytes in sorted(spans):
        if offsets != [end, end + nbytes]:
            raise SnapshotNotSafetensors("not a safetensors file: tensors overlap or leave a gap")
        end += nbytes
    if available < end:
        raise SnapshotTruncated(f"{available} bytes of tensors, expected {end}; copy it again")
    if available > end:
        raise SnapshotTooBig(f"{available} bytes of tensors, expected {end} for this model's W")


def _check_finite(tensors: dict[str, Any]) -> None:
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
