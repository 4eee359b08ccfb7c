"""How one episode lies on disk: a Zarr v3 group that anyone can read, with a watermark.

    <id>.zarr/
      zarr.json              attributes: EpisodeRecord; `length` is the watermark
      images/<camera>        uint8   [capacity, H, W, 3]   one chunk a block of steps
      state, action          float32 [capacity, S], [capacity, A]
      t_ns                   int64   [capacity]

Only rows below `length` count. Arrays are created far larger than needed (a chunk never written
costs nothing) and get their true shape when the episode is sealed. Every block is one whole chunk
of each array, also where it is partly filled, so that writing never reads.
"""

import json
import os
import struct
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import zarr
from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, ValidationError
from zarr.codecs import Crc32cCodec

from selfalign.data.play_codec import Codec, image_codecs
from selfalign.data.spec import RobotSpec
from selfalign.errors import StoreError

SCHEMA = 1

# Steps an episode can hold: 29 hours at 10 Hz.
CAPACITY = 1 << 20

# A black frame must have a chunk too, or it looks like a missing one.
_WRITE_EMPTY_CHUNKS = {"array.write_empty_chunks": True}

Array = zarr.Array[Any]


@final
class DamagedEpisode(StoreError):
    """Files of an episode are missing or cannot be decoded."""


@final
class EpisodeRecord(BaseModel):
    """The attributes of an episode's group. Unknown ones, of later writers, are ignored."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1]
    id: str
    spec: RobotSpec
    created_at: str = Field(description="ISO 8601, UTC")
    meta: dict[str, JsonValue] = Field(description="What the recorder's user said about it")
    codec: Codec
    block_steps: int = Field(ge=1)
    length: NonNegativeInt = Field(description="Watermark: steps that count")
    bytes: NonNegativeInt = Field(description="Size on disk")
    instructions: tuple[tuple[int, str], ...] = Field(description="(first step, text) of each run")
    sealed: bool = False
    recovered: bool = Field(default=False, description="Sealed after a crash, not by its writer")


def array_names(spec: RobotSpec) -> list[str]:
    """Return the paths of an episode's arrays inside its group."""
    return [*(f"images/{camera.name}" for camera in spec.cameras), "state", "action", "t_ns"]


def create_arrays(path: Path, spec: RobotSpec, *, codec: Codec, block: int) -> dict[str, Array]:
    """Create the group and its arrays at `path`, which must not exist, without a record."""
    group = zarr.create_group(path, overwrite=False)
    group.create_group("images")
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        f"images/{camera.name}": ((camera.height, camera.width, 3), "uint8")
        for camera in spec.cameras
    }
    shapes["state"] = ((len(spec.state),), "float32")
    shapes["action"] = ((len(spec.action),), "float32")
    shapes["t_ns"] = ((), "int64")
    small = {"compressors": [Crc32cCodec()]}
    return {
        name: group.create_array(
            name,
            shape=(CAPACITY, *row),
            chunks=(block, *row),
            dtype=dtype,
            # Flat file names: one directory an array instead of three a chunk.
            chunk_key_encoding={"name": "default", "separator": "."},
            config={"write_empty_chunks": True},
            **(image_codecs(codec) if name.startswith("images/") else small),
        )
        for name, (row, dtype) in shapes.items()
    }


def open_arrays(path: Path, spec: RobotSpec, *, mode: Literal["r", "r+"] = "r") -> dict[str, Array]:
    """Open the arrays of an episode for reading, or with `r+` for writing on.

    Raises:
        DamagedEpisode: an array is missing.
    """
    arrays = {}
    # Zarr takes this from its process-wide configuration when it opens an array.
    writing = nullcontext() if mode == "r" else zarr.config.set(_WRITE_EMPTY_CHUNKS)
    with writing:
        for name in array_names(spec):
            try:
                arrays[name] = zarr.open_array(path / name, mode=mode, zarr_format=3)
            except (OSError, ValueError, KeyError) as error:
                message = f"{path.name}: array {name!r} cannot be opened: {error}"
                raise DamagedEpisode(message) from error
    return arrays


def chunk_file(path: Path, name: str, block: int) -> Path:
    """Return the file that holds block number `block` of an array."""
    trailing = {"t_ns": 0, "state": 1, "action": 1}.get(name, 3)
    return path / name / ".".join(["c", str(block), *["0"] * trailing])


def missing_chunk(
    path: Path, names: Iterable[str], block_steps: int, start: int, stop: int
) -> Path | None:
    """Return the first chunk file that rows [start, stop) of the arrays need and that is not there.

    Zarr reads a missing chunk as zeros, so this is what tells lost steps from black frames.
    """
    if start == stop:
        return None
    blocks = range(start // block_steps, (stop - 1) // block_steps + 1)
    files = (chunk_file(path, name, block) for name in names for block in blocks)
    return next((file for file in files if not file.is_file()), None)


def read_rows(array: Array, start: int, stop: int) -> np.ndarray[Any, Any]:
    """Read rows [start, stop) of an array.

    Raises:
        DamagedEpisode: a chunk cannot be decoded.
    """
    try:
        return np.asarray(array[start:stop])
    except (ValueError, RuntimeError, OSError, struct.error) as error:
        raise DamagedEpisode(f"{array.store_path}: rows {start}-{stop}: {error}") from error


def read_record(path: Path) -> EpisodeRecord:
    """Read the record of an episode.

    Raises:
        FileNotFoundError: there is no such episode, or it has no metadata.
        DamagedEpisode: its metadata are not those of an episode.
    """
    data = (path / "zarr.json").read_bytes()
    try:
        return EpisodeRecord.model_validate(json.loads(data)["attributes"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise DamagedEpisode(f"{path.name}: zarr.json holds no episode record: {error}") from error


def write_record(path: Path, record: EpisodeRecord, *, fsync: bool) -> None:
    """Replace the record of an episode atomically. This is what commits a block."""
    attributes = record.model_dump(mode="json")
    node = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    _replace_json(path / "zarr.json", node, fsync=fsync)


def reshape_arrays(path: Path, spec: RobotSpec, rows: int) -> None:
    """Give every array so many rows. Chunks are left alone. May be repeated.

    Zarr's own `resize` would first list the chunks of the whole capacity.
    """
    for name in array_names(spec):
        file = path / name / "zarr.json"
        node = json.loads(file.read_bytes())
        node["shape"][0] = rows
        _replace_json(file, node, fsync=False)


def size_on_disk(path: Path) -> int:
    """Sum up the sizes of all files below a folder [byte]."""
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def fsync_path(path: Path) -> None:
    """Flush a file or directory to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(path: Path) -> None:
    """Flush every file and directory of an episode to the device, contents first."""
    for item in path.rglob("*"):
        if item.is_file():
            fsync_path(item)
    for item in [path, *path.rglob("*")]:
        if item.is_dir():
            fsync_path(item)


def _replace_json(path: Path, node: dict[str, Any], *, fsync: bool) -> None:
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(json.dumps(node))
        if fsync:
            fsync_path(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if fsync:
        fsync_path(path.parent)
