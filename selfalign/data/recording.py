"""Recorded motion for stage 1: one directory of plain arrays, one row per frame, memory-mapped.

A recording knows the commanded motion, not actions: the same rows can be relabelled into any action
space, so that a new action space costs no rendering.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from selfalign.errors import StoreError

IMAGE_SIZE = 96
JOINTS = 8
PLAY, DEMO, FRAME = 0, 1, 2

_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "images": ("u1", (IMAGE_SIZE, IMAGE_SIZE, 3)),
    "joints": ("f4", (JOINTS,)),
    "joint_target": ("f4", (JOINTS,)),
    "gripper": ("f4", ()),
    "gripper_target": ("f4", ()),
    "tool": ("f4", (3,)),
    "tool_rotation": ("f4", (3, 3)),
    "tool_target": ("f4", (3,)),
    "episode": ("i4", ()),
    "step": ("i4", ()),
    "kind": ("u1", ()),
    "task": ("u1", ()),
    "colour": ("u1", ()),
    "success": ("u1", ()),
}


@final
class RecordingWriter:
    """Writes a recording of known capacity. The rows of an unfinished episode are never listed."""

    def __init__(self, directory: Path, capacity: int, n_keypoints: int) -> None:
        if (directory / "episodes.json").exists():
            raise StoreError(f"{directory} holds a recording already; choose another directory")
        directory.mkdir(parents=True, exist_ok=True)
        fields = _FIELDS | {"keypoints": ("f4", (n_keypoints, 3))}
        self.directory = directory
        self.capacity = capacity
        self.length = 0
        self.episodes: list[dict[str, Any]] = []
        self._arrays = {
            name: open_memmap(
                directory / f"{name}.npy", "w+", dtype=np.dtype(dtype), shape=(capacity, *shape)
            )
            for name, (dtype, shape) in fields.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append_episode(self, rows: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Add the frames of one episode: every field but `episode` and `step`, n rows each."""
        n = len(rows["images"])
        start, stop = self.length, self.length + n
        if stop > self.capacity:
            raise StoreError(f"the recording holds {self.capacity} frames; {stop} do not fit")
        for name, array in self._arrays.items():
            if name == "episode":
                array[start:stop] = len(self.episodes)
            elif name == "step":
                array[start:stop] = np.arange(n)
            else:
                array[start:stop] = rows[name]
        self.episodes.append({**meta, "start": start, "stop": stop})
        self.length = stop

    def close(self) -> None:
        """Flush the arrays and list the episodes; only now is the recording readable."""
        for array in self._arrays.values():
            array.flush()
        text = json.dumps({"length": self.length, "episodes": self.episodes})
        temporary = self.directory / "episodes.json.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.rename(self.directory / "episodes.json")


@final
class Recording:
    """A recording opened for reading. `recording["tool"]` is a read-only array of all frames."""

    def __init__(self, directory: Path) -> None:
        try:
            index = json.loads((directory / "episodes.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(
                f"{directory} holds no finished recording (no episodes.json)"
            ) from None
        self.directory = directory
        self.length: int = index["length"]
        self.episodes: list[dict[str, Any]] = index["episodes"]
        self._arrays = {
            path.stem: np.load(path, mmap_mode="r") for path in sorted(directory.glob("*.npy"))
        }

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, field: str) -> NDArray[Any]:
        return self._arrays[field][: self.length]


def join_recordings(parts: Sequence[Path], directory: Path) -> None:
    """Write finished recordings one after another as one, into a new directory.

    Raises StoreError where a part is not finished or the directory holds a recording.
    """
    found = [Recording(part) for part in parts]
    keypoints = found[0]["keypoints"].shape[1] if found else 0
    with RecordingWriter(directory, sum(len(part) for part in found), keypoints) as writer:
        for part in found:
            for episode in part.episodes:
                rows = slice(episode["start"], episode["stop"])
                writer.append_episode(
                    {name: part[name][rows] for name in (*_FIELDS, "keypoints")}, episode
                )
