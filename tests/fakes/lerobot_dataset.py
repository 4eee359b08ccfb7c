"""Writes small LeRobotDatasets as lerobot lays them out, with frames that say who they are.

A frame shows its number as ten vertical bars, bit 0 left, so that it can be read back after lossy
video; state and action of frame t are functions of episode, t and column.
"""

import io
import json
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

BITS, BAR, HEIGHT = 10, 8, 32
WIDTH = BITS * BAR
FPS = 10
JOINTS = ("shoulder", "elbow", "gripper")


def frame_of(number: int, *, camera: int = 0) -> NDArray[np.uint8]:
    """The picture [H, W, 3] of a frame number; each camera has a tint of its own."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = np.repeat(np.array(bits, np.uint8) * 200 + 20, BAR)[None, :, None]
    image[HEIGHT // 2 :, :, camera] = 128
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """The frame number that a picture shows."""
    bars = image[: HEIGHT // 2 - 4].mean((0, 2)).reshape(BITS, BAR).mean(1)
    return sum(1 << bit for bit, level in enumerate(bars) if level > 120)


def numbers_of(images: NDArray[np.uint8]) -> list[int]:
    """The numbers of several images."""
    return [number_of(image) for image in images]


def state_of(episode: int, t: int) -> NDArray[np.float32]:
    """State of a frame."""
    return np.float32([0.1 * t + episode, np.sin(t), -t])


def action_of(episode: int, t: int) -> NDArray[np.float32]:
    """Action sent at a frame; no other frame has this one."""
    return np.float32([1000 * episode + t, -t - 0.5, episode])


@dataclass
class Written:
    """What is written; change a field and write again to make a dataset that is wrong."""

    lengths: tuple[int, ...] = (7, 5, 9)
    episodes_a_file: int = 2
    as_video: bool = True
    cameras: tuple[str, ...] = ("observation.images.front",)
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=lambda: {"g": "4", "bf": "2", "crf": "10"})
    tasks: tuple[str, ...] = ("touch the red cube", "lift it")
    robot_type: str | None = "so100"
    # Time stamps of one episode [s]: from these, else t / FPS.
    times: dict[int, list[float]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    task_column: str = "__index_level_0__"

    def number(self, episode: int, t: int) -> int:
        """The number that the frame t of an episode shows."""
        return sum(self.lengths[:episode]) + t + 1

    def times_of(self, episode: int) -> list[float]:
        """Time stamps of an episode [s]."""
        return self.times.get(episode, [t / FPS for t in range(self.lengths[episode])])

    def file_of(self, episode: int) -> int:
        """Number of the file that holds an episode."""
        return episode // self.episodes_a_file

    def write(self, root: Path) -> Path:
        """Write the dataset in version 3.0 and return its folder."""
        for part in ("meta/episodes/chunk-000", "data/chunk-000"):
            (root / part).mkdir(parents=True, exist_ok=True)
        (root / "meta/info.json").write_text(json.dumps(self._info() | self.info))
        (root / "meta/stats.json").write_text(json.dumps(self._stats()))
        columns = {"task_index": range(len(self.tasks)), self.task_column: self.tasks}
        parquet.write_table(pa.table({k: list(v) for k, v in columns.items()}), root / _TASKS)
        for number in sorted({self.file_of(e) for e in range(len(self.lengths))}):
            inside = [e for e in range(len(self.lengths)) if self.file_of(e) == number]
            tables = [self._rows(episode) for episode in inside]
            with parquet.ParquetWriter(root / _data(number), tables[0].schema) as writer:
                for table in tables:
                    writer.write_table(table)
            if self.as_video:
                for slot, key in enumerate(self.cameras):
                    self._video(root / _video(key, number), inside, slot)
        rows = [self._episode(e) for e in range(len(self.lengths))]
        parquet.write_table(pa.Table.from_pylist(rows), root / _EPISODES)
        return root

    def _info(self) -> dict[str, Any]:
        vector = {"dtype": "float32", "shape": [3], "names": list(JOINTS)}
        picture = {
            "dtype": "video" if self.as_video else "image",
            "shape": [HEIGHT, WIDTH, 3],
            "names": ["height", "width", "channels"],
        }
        one = {"dtype": "int64", "shape": [1], "names": None}
        features = {"observation.state": vector, "action": vector}
        features |= dict.fromkeys(self.cameras, picture)
        features |= {"timestamp": one | {"dtype": "float32"}}
        features |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), one)
        return {
            "codebase_version": "v3.0",
            "robot_type": self.robot_type,
            "total_episodes": len(self.lengths),
            "total_frames": sum(self.lengths),
            "fps": FPS,
            "chunks_size": 1000,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": features,
        }

    def _stats(self) -> dict[str, Any]:
        out = {}
        for name, value in (("observation.state", state_of), ("action", action_of)):
            every = np.stack([value(e, t) for e, n in enumerate(self.lengths) for t in range(n)])
            low, high = every.min(0), every.max(0)
            out[name] = {"min": low.tolist(), "max": high.tolist(), "count": [len(every)]}
        return out

    def _rows(self, episode: int) -> pa.Table:
        steps = range(self.lengths[episode])
        vector = pa.list_(pa.float32(), 3)
        columns = {
            "observation.state": pa.array([state_of(episode, t).tolist() for t in steps], vector),
            "action": pa.array([action_of(episode, t).tolist() for t in steps], vector),
            "timestamp": pa.array(self.times_of(episode), pa.float32()),
            "frame_index": pa.array(steps, pa.int64()),
            "episode_index": pa.array([episode] * len(steps), pa.int64()),
            "index": pa.array([sum(self.lengths[:episode]) + t for t in steps], pa.int64()),
            "task_index": pa.array([episode % len(self.tasks)] * len(steps), pa.int64()),
        }
        if not self.as_video:
            for slot, key in enumerate(self.cameras):
                items = [
                    {"bytes": png(frame_of(self.number(episode, t), camera=slot)), "path": None}
                    for t in steps
                ]
                kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
                columns[key] = pa.array(items, kind)
        return pa.table(columns)

    def _episode(self, episode: int) -> dict[str, Any]:
        length, number = self.lengths[episode], self.file_of(episode)
        row = {
            "episode_index": episode,
            "tasks": [self.tasks[episode % len(self.tasks)]],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": number,
            "dataset_from_index": sum(self.lengths[:episode]),
            "dataset_to_index": sum(self.lengths[: episode + 1]),
        }
        before = [e for e in range(episode) if self.file_of(e) == number]
        start = sum(self.lengths[e] for e in before) / FPS
        if self.as_video:
            for key in self.cameras:
                row |= {
                    f"videos/{key}/chunk_index": 0,
                    f"videos/{key}/file_index": number,
                    f"videos/{key}/from_timestamp": start,
                    f"videos/{key}/to_timestamp": start + length / FPS,
                }
        return row

    def _video(self, path: Path, episodes: list[int], slot: int) -> None:
        numbers = [self.number(e, t) for e in episodes for t in range(self.lengths[e])]
        images = [frame_of(number, camera=slot) for number in numbers]
        write_video(path, images, codec=self.codec, options=self.options)


_TASKS = "meta/tasks.parquet"
_EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def _data(number: int) -> str:
    return f"data/chunk-000/file-{number:03d}.parquet"


def _video(key: str, number: int) -> str:
    return f"videos/{key}/chunk-000/file-{number:03d}.mp4"


def write_video(
    path: Path, images: list[NDArray[np.uint8]], *, codec: str, options: dict[str, str]
) -> None:
    """Encode frames at FPS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(FPS), options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def png(image: NDArray[np.uint8]) -> bytes:
    """An image as PNG."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_v21(written: Written, root: Path) -> Path:
    """Write the dataset in version 2.1: one file an episode, JSON lines in meta."""
    parts = Written(**(vars(written) | {"episodes_a_file": 1}))
    parts.write(root)
    data_path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video_path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    info = parts._info() | {"codebase_version": "v2.1"}
    info |= {"data_path": data_path, "video_path": video_path}
    (root / "meta/info.json").write_text(json.dumps(info))
    episodes, stats = [], []
    for episode, length in enumerate(parts.lengths):
        (root / _data(episode)).rename(root / f"data/chunk-000/episode_{episode:06d}.parquet")
        for key in parts.cameras if parts.as_video else ():
            new = root / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4"
            new.parent.mkdir(parents=True, exist_ok=True)
            (root / _video(key, episode)).rename(new)
        episodes.append({"episode_index": episode, "length": length, "tasks": []})
        own = {}
        for name, value in (("observation.state", state_of), ("action", action_of)):
            every = np.stack([value(episode, t) for t in range(length)])
            own[name] = {"min": every.min(0).tolist(), "max": every.max(0).tolist()}
        stats.append({"episode_index": episode, "stats": own})
    tasks = [{"task_index": i, "task": text} for i, text in enumerate(parts.tasks)]
    for name, lines in (("episodes", episodes), ("episodes_stats", stats), ("tasks", tasks)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"meta/{name}.jsonl").write_text(text)
    for name in ("stats.json", "tasks.parquet", "episodes/chunk-000/file-000.parquet"):
        (root / "meta" / name).unlink()
    return root
