"""The frames of a LeRobotDataset, decoded once: plain arrays of a run, one row a frame.

Shape key: N rows, H rows and W columns of an image, S state, A action.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from selfalign.data.lerobot import LeRobotDataset
from selfalign.data.resize import resize_with_pad
from selfalign.data.spec import RobotSpec
from selfalign.data.transitions import robot_starts, rows_before

_BLOCK = 128


@final
@dataclass(frozen=True, eq=False)
class DatasetFrames:
    """All frames: `images` uint8 [N, H, W, 3] by camera, raw `state` [N, S] and `action` [N, A].

    Episode e is rows episodes[e][0] to episodes[e][1]; `t_ns` [N] counts from its begin, and the
    instruction of row i is texts[task[i]].
    """

    images: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    t_ns: NDArray[np.int64]
    task: NDArray[np.int64]
    episodes: list[tuple[int, int]]
    texts: list[str]

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.state)

    @classmethod
    def open(cls, directory: Path, dataset: LeRobotDataset, side: int | None) -> Self:
        """Read the arrays below `directory`; decodes the dataset when they are not there.

        `side` fits images into squares of that side; None keeps them as they are.
        """
        if not (directory / "index.json").exists():
            _decode(directory, dataset, side)
        index = json.loads((directory / "index.json").read_text(encoding="utf-8"))
        numbers = {name: np.load(directory / f"{name}.npy") for name in _NUMBERS}
        return cls(
            images={
                camera.name: np.load(directory / f"images_{slot}.npy", mmap_mode="r")
                for slot, camera in enumerate(dataset.spec.cameras)
            },
            episodes=[(int(first), int(last)) for first, last in index["episodes"]],
            texts=index["texts"],
            **numbers,
        )

    def starts(self, episode: int, stride: int, spec: RobotSpec) -> NDArray[np.int64]:
        """Rows of an episode from which `stride` steps follow without a gap, as `robot_starts`."""
        first, last = self.episodes[episode]
        if stride + rows_before(spec) == 0:
            return np.arange(first, last)
        times = self.t_ns[first:last]
        return first + robot_starts(spec, times, len(times), stride=stride)


_NUMBERS = ("state", "action", "t_ns", "task")


def _decode(directory: Path, dataset: LeRobotDataset, side: int | None) -> None:
    """Write all arrays; index.json last, so that what is not whole is decoded again."""
    directory.mkdir(parents=True, exist_ok=True)
    lengths = [entry.length for entry in dataset.episodes]
    ends = np.cumsum(lengths).tolist()
    images = [
        _images_file(directory / f"images_{slot}.npy", sum(lengths), side or (c.height, c.width))
        for slot, c in enumerate(dataset.spec.cameras)
    ]
    texts: list[str] = []
    rows: dict[str, list[Any]] = {name: [] for name in _NUMBERS}
    row = 0
    for episode, length in enumerate(tqdm(lengths, desc="dataset", mininterval=5)):
        for start in range(0, length, _BLOCK):
            part = dataset.read(episode, start, min(start + _BLOCK, length))
            for file, camera in zip(images, dataset.spec.cameras, strict=True):
                for offset, image in enumerate(part.images[camera.name]):
                    file[row + offset] = image if side is None else resize_with_pad(image, side)
            for text in dict.fromkeys(part.instructions):
                if text not in texts:
                    texts.append(text)
            rows["state"].append(part.state)
            rows["action"].append(part.action)
            rows["t_ns"].append(part.t_ns)
            rows["task"].append(np.array([texts.index(t) for t in part.instructions], np.int64))
            row += len(part)
    for file in images:
        file.flush()
    for name, parts in rows.items():
        np.save(directory / f"{name}.npy", np.concatenate(parts))
    episodes = [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    text = json.dumps({"episodes": episodes, "texts": texts, "spec": dataset.spec.digest})
    temporary = directory / "index.json.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(directory / "index.json")


def _images_file(path: Path, rows: int, size: int | tuple[int, int]) -> "np.memmap[Any, Any]":
    height, width = (size, size) if isinstance(size, int) else size
    return open_memmap(path, "w+", dtype=np.uint8, shape=(rows, height, width, 3))
