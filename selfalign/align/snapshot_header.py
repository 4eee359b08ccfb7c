"""The header of a snapshot file: where a W comes from, and which tensors follow.

Everything that a header says is checked against the W that the model expects before any tensor is
read, so that a hostile header can neither allocate memory nor choose shapes.
"""

import json
import math
import struct
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, BinaryIO, ClassVar, final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from selfalign.align.snapshot_errors import (
    SnapshotBadMetadata,
    SnapshotNotSafetensors,
    SnapshotTooBig,
    SnapshotTruncated,
    SnapshotWrongBase,
    SnapshotWrongDtype,
    SnapshotWrongKeys,
    SnapshotWrongShape,
)
from selfalign.model.weights import FastWeights

METADATA_KEY = "selfalign"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 1 << 20
_FORMAT = 1

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
        spec_sha256: digest of what it was aligned for (`selfalign.data.w_spec`); None if that is
            not known, and then the file says nothing of it, as files before this field do.
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
    spec_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


_META = TypeAdapter(SnapshotMeta)


def write_meta(meta: SnapshotMeta) -> str:
    """Return the metadata as the text that the header holds.

    Raises:
        SnapshotBadMetadata: a field is outside its range.
    """
    try:
        fields = {"format": _FORMAT, **asdict(meta)}
        if meta.spec_sha256 is None:
            del fields["spec_sha256"]
        text = json.dumps(fields, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SnapshotBadMetadata(f"snapshot metadata cannot be written: {error}") from error
    _parse_meta(text)
    return text


def check_header(prefix: bytes, size: int, *, like: FastWeights, base_sha256: str) -> SnapshotMeta:
    """Check everything that a header says, and return the metadata.

    Args:
        prefix: the beginning of the file, header included.
        size: size of the whole file [byte].
        like: a W of the model that will use it.
        base_sha256: digest of the frozen model that will use it.

    Raises:
        SnapshotError: a subclass for each kind of bad header.
    """
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


def read_header(file: BinaryIO) -> bytes:
    """Read the beginning of a file, up to the end of its header but never more than its limit."""
    start = file.read(LENGTH_BYTES)
    if len(start) < LENGTH_BYTES:
        return start
    (length,) = struct.unpack("<Q", start)
    return start + file.read(min(length, MAX_HEADER_BYTES))


def _parse_header(prefix: bytes, size: int) -> tuple[dict[str, Any], int]:
    if size < LENGTH_BYTES:
        raise SnapshotTruncated(f"{size} bytes, expected a safetensors file of more than 8")
    (length,) = struct.unpack("<Q", prefix[:LENGTH_BYTES])
    if length > MAX_HEADER_BYTES:
        msg = f"not a safetensors file: header of {length} bytes, at most {MAX_HEADER_BYTES}"
        raise SnapshotNotSafetensors(msg)
    end = LENGTH_BYTES + length
    if end > size:
        raise SnapshotTruncated(f"{size} bytes, but the header alone ends at {end}")
    try:
        header = json.loads(prefix[LENGTH_BYTES:end], object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise SnapshotNotSafetensors(f"not a safetensors file: bad header: {error}") from error
    if not isinstance(header, dict):
        kind = type(header).__name__
        raise SnapshotNotSafetensors(f"not a safetensors file: header is a {kind}, not an object")
    return header, end


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


def _read_meta(metadata: object) -> SnapshotMeta:
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        msg = f"not a snapshot of W: its header has no metadata under {METADATA_KEY!r}"
        raise SnapshotBadMetadata(msg)
    return _parse_meta(text)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found
