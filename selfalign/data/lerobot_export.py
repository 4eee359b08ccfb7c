"""Recorded play as a LeRobotDataset of version 3.0, which lerobot and we read.

LeRobot knows no gaps in time: its frames follow one another at the dataset's rate. So every run of
steps without a gap becomes an episode. Images are stored as PNG, without loss. The robot spec goes
along as meta/robot_spec.yaml, as the format has no limits and units.

Shape key: n steps, S state, A action.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selfalign.data.episode_reader import EpisodeReader
from selfalign.data.lerobot_format import ACTION, INSTALL, ROBOT_SPEC, STATE, LeRobotError
from selfalign.data.lerobot_stats import Tally
from selfalign.data.play_reader import PlayReader
from selfalign.data.play_step import EpisodeSlice
from selfalign.data.spec import Dimension, RobotSpec
from selfalign.data.transitions import transition_starts
from selfalign.errors import StoreError

# Frames read at once, and bytes of a data file after which another one begins.
_BLOCK = 64
_FILE_BYTES = 100 * 2**20
_SHORTEST = 2
_FILES = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_A_CHUNK = 1000


@final
@dataclass(frozen=True)
class Exported:
    """What was written, and how many steps stand alone between gaps and were left out."""

    episodes: int
    frames: int
    left_out: int


def export_play(
    store: PlayReader, target: Path, *, ids: Sequence[str] = (), robot: str | None = None
) -> Exported:
    """Write episodes of a play store, all of one robot, as a dataset into a new directory.

    Args:
        store: The play store.
        target: A directory that does not exist or is empty.
        ids: Episodes; all that are sealed if there are none.
        robot: Only the episodes of this robot.

    Raises:
        StoreError: there is nothing to export, the target is not empty, the episodes are of
            several robots, or pyarrow is not installed.
    """
    if target.exists() and any(target.iterdir()):
        raise StoreError(f"{target} is not empty; choose another directory")
    chosen = list(ids) or [info.id for info in store.episodes() if info.sealed]
    opened = [store.open(name) for name in chosen]
    readers = [reader for reader in opened if robot in (None, reader.spec.name)]
    if not readers:
        whose = "" if robot is None else f" of robot {robot!r}"
        raise StoreError(f"{store.folders.root} has no sealed episodes{whose} to export")
    specs = {reader.spec.digest: reader.spec for reader in readers}
    if len(specs) != 1:
        names = ", ".join(sorted(spec.name for spec in specs.values()))
        raise StoreError(
            f"one dataset holds one robot with one spec, but the episodes are of {names}; choose "
            "one robot, or episodes by their names"
        )
    writer = _Writer(target, readers[0].spec)
    left_out = 0
    for reader in readers:
        runs = list(_runs(reader))
        left_out += reader.length - sum(stop - start for start, stop in runs)
        for start, stop in runs:
            writer.add(reader, start, stop)
    if not writer.episodes:
        raise StoreError(f"no two steps of {', '.join(chosen)} follow one another without a gap")
    writer.close()
    return Exported(len(writer.episodes), writer.frames, left_out)


def _runs(reader: EpisodeReader) -> Iterator[tuple[int, int]]:
    """The stretches [start, stop) of an episode without a gap in time."""
    length, spec = reader.length, reader.spec
    times = reader.read_times(0, length)
    follows = np.zeros(length, np.bool_)
    follows[transition_starts(times, length, stride=1, period_ns=spec.period_ns) + 1] = True
    starts = np.flatnonzero(~follows)
    for start, stop in zip(starts, [*starts[1:], length], strict=True):
        if stop - start >= _SHORTEST:
            yield int(start), int(stop)


@final
class _Writer:
    """One dataset being written; nothing of it is readable before `close`."""

    def __init__(self, target: Path, spec: RobotSpec) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise LeRobotError(target, "", f"writing it needs pyarrow: {INSTALL}") from None
        self.target, self.spec = target, spec
        self.episodes: list[dict[str, Any]] = []
        self.frames = 0
        self._tasks: dict[str, int] = {}
        self._tally = Tally()
        self._file: tuple[int, Any] | None = None
        self._bytes = 0

    def add(self, reader: EpisodeReader, start: int, stop: int) -> None:
        """Add steps [start, stop) of a recorded episode as an episode of its own."""
        first = self.frames
        number, writer = self._data_file()
        texts: dict[str, None] = {}
        for at in range(start, stop, _BLOCK):
            part = reader.read(at, min(at + _BLOCK, stop))
            table = self._table(part, at - start)
            writer.write_table(table)
            self._bytes += table.nbytes
            self.frames += len(part)
            texts |= dict.fromkeys(part.instructions)
        self.episodes.append(
            {
                "episode_index": len(self.episodes),
                "tasks": list(texts),
                "length": stop - start,
                "data/chunk_index": number // _A_CHUNK,
                "data/file_index": number % _A_CHUNK,
                "dataset_from_index": first,
                "dataset_to_index": self.frames,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )

    def close(self) -> None:
        """Write what describes the dataset; info.json last."""
        from pyarrow import Table, parquet

        if self._file is not None:
            self._file[1].close()
        meta = self.target / "meta"
        path = self._path("meta/episodes", 0)
        parquet.write_table(Table.from_pylist(self.episodes), path)
        parquet.write_table(_task_table(self._tasks), meta / "tasks.parquet")
        (meta / "stats.json").write_text(json.dumps(self._tally.result(), indent=2))
        (self.target / ROBOT_SPEC).write_text(self.spec.to_yaml(), encoding="utf-8")
        text = json.dumps(self._info(), indent=2)
        (meta / "info.json").write_text(text, encoding="utf-8")

    def _data_file(self) -> tuple[int, Any]:
        """The data file that is being written; another one where that is full."""
        from pyarrow import parquet

        if self._file is not None and self._bytes < _FILE_BYTES:
            return self._file
        number = 0
        if self._file is not None:
            number = self._file[0] + 1
            self._file[1].close()
        self._bytes = 0
        self._file = number, parquet.ParquetWriter(self._path("data", number), self._schema())
        return self._file

    def _path(self, folder: str, number: int) -> Path:
        name = _FILES.format(chunk_index=number // _A_CHUNK, file_index=number % _A_CHUNK)
        path = self.target / folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _schema(self) -> Any:
        import pyarrow as pa

        numbers = {STATE: len(self.spec.state), ACTION: len(self.spec.action)}
        fields = {name: pa.list_(pa.float32(), size) for name, size in numbers.items()}
        picture = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        fields |= {_camera_feature(camera.name): picture for camera in self.spec.cameras}
        fields |= {"timestamp": pa.float32()}
        fields |= dict.fromkeys(_INDICES, pa.int64())
        return pa.schema(fields)

    def _table(self, part: EpisodeSlice, first: int) -> Any:
        import pyarrow as pa

        frame = first + np.arange(len(part))
        columns: dict[str, Any] = {
            STATE: part.state.tolist(),
            ACTION: part.action.tolist(),
            "timestamp": (frame / self.spec.rate_hz).tolist(),
            "frame_index": frame.tolist(),
            "episode_index": [len(self.episodes)] * len(part),
            "index": (self.frames + np.arange(len(part))).tolist(),
            "task_index": [self._task(text) for text in part.instructions],
        }
        for name in (STATE, "timestamp", *_INDICES, ACTION):
            self._tally.add_numbers(name, np.asarray(columns[name]))
        for name, images in part.images.items():
            feature = _camera_feature(name)
            columns[feature] = [{"bytes": _png(image), "path": None} for image in images]
            self._tally.add_images(feature, images)
        return pa.Table.from_pydict(columns, schema=self._schema())

    def _task(self, text: str) -> int:
        return self._tasks.setdefault(text, len(self._tasks))

    def _info(self) -> dict[str, Any]:
        features = {STATE: _vector(self.spec.state), ACTION: _vector(self.spec.action)}
        for camera in self.spec.cameras:
            shape, names = [camera.height, camera.width, 3], ["height", "width", "channels"]
            feature = {"dtype": "image", "shape": shape, "names": names}
            features[_camera_feature(camera.name)] = feature
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        one = {"dtype": "int64", "shape": [1], "names": None}
        features |= dict.fromkeys(_INDICES, one)
        rate = self.spec.rate_hz
        return {
            "codebase_version": "v3.0",
            "robot_type": self.spec.name,
            "total_episodes": len(self.episodes),
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _A_CHUNK,
            "data_files_size_in_mb": _FILE_BYTES // 2**20,
            "video_files_size_in_mb": 200,
            "fps": int(rate) if rate == int(rate) else rate,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": f"data/{_FILES}.parquet",
            "video_path": None,
            "features": features,
        }


_INDICES = ("frame_index", "episode_index", "index", "task_index")


def _camera_feature(name: str) -> str:
    return f"observation.images.{name}"


def _vector(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    names = [dimension.name for dimension in dimensions]
    return {"dtype": "float32", "shape": [len(names)], "names": names}


def _png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _task_table(tasks: dict[str, int]) -> Any:
    """A table whose text column pandas takes for the index, as lerobot expects it."""
    import pyarrow as pa

    table = pa.table({"task_index": list(tasks.values()), "task": list(tasks)})
    columns = [
        {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": numpy,
            "metadata": None,
        }
        for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    about = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    return table.replace_schema_metadata({"pandas": json.dumps(about)})
