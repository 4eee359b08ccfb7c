"""A LeRobotDataset as recorded play: episodes, and the transitions cut from them.

LeRobot stores with frame t what was sensed then and the action that was sent then, which is how a
play store means it: the actions of frames t to t+k-1 were executed between observations t and t+k.
Needs pyarrow and PyAV, not lerobot.

Shape key: n frames, H rows, W columns, S state, A action, k stride.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from selfalign.data.lerobot_format import (
    ACTION,
    ROBOT_SPEC,
    STATE,
    DatasetInfo,
    LeRobotError,
    read_table,
)
from selfalign.data.lerobot_index import (
    EpisodeEntry,
    VideoSpan,
    read_episodes,
    read_tasks,
)
from selfalign.data.lerobot_spec import camera_name, check_spec, derive_spec
from selfalign.data.lerobot_video import read_frames
from selfalign.data.observation import Observation
from selfalign.data.play_step import EpisodeSlice
from selfalign.data.spec import RobotSpec
from selfalign.data.transitions import robot_starts

# A frame farther from its time than this is another frame [period].
_TOLERANCE = 0.25


@final
@dataclass(frozen=True, eq=False)
class Transition:
    """Observation t, the actions `[k, A]` float32 executed from t on, and observation t + k."""

    observation: Observation
    actions: NDArray[np.float32]
    following: Observation


@final
class LeRobotDataset:
    """Reads a dataset of version 3.0 or 2.1. The episode read last stays in memory. One thread."""

    def __init__(self, root: Path, *, spec: RobotSpec | None = None) -> None:
        """Open the dataset in folder `root`.

        The robot is what `spec` declares, else what export has left in the dataset, else derived
        from features and statistics.

        Raises:
            LeRobotError: naming the file and field that is wrong.
            SpecError: the robot spec in the dataset is none.
        """
        self.root = Path(root)
        self.info = DatasetInfo.load(self.root)
        if spec is None and (self.root / ROBOT_SPEC).is_file():
            spec = RobotSpec.from_file(self.root / ROBOT_SPEC)
        if spec is not None:
            check_spec(self.root, self.info, spec)
        self.spec = spec or derive_spec(self.root, self.info)
        self.episodes = read_episodes(self.root, self.info)
        self.tasks = read_tasks(self.root, self.info)
        wanted = {camera.name for camera in self.spec.cameras}
        self._cameras = {k: f for k, f in self.info.cameras.items() if camera_name(k) in wanted}
        self._rows: tuple[int, Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    def read(self, episode: int, start: int = 0, stop: int | None = None) -> EpisodeSlice:
        """Read frames [start, stop) of an episode, by its place in `episodes`.

        Raises:
            LeRobotError: a file is missing or broken, or not as the dataset says.
        """
        entry, rows = self.episodes[episode], self._table(episode)
        at = slice(start, entry.length if stop is None else stop)
        if not 0 <= at.start <= at.stop <= entry.length:
            message = f"frames [{at.start}, {at.stop}) of episode {entry.index}"
            raise LeRobotError(entry.data_file, "", f"{message}, which has {entry.length}")
        return EpisodeSlice(
            images={camera_name(key): self._images(key, entry, rows, at) for key in self._cameras},
            state=rows[STATE][at],
            action=rows[ACTION][at],
            t_ns=np.round(rows["timestamp"][at] * 1e9).astype(np.int64),
            instructions=tuple(rows["task"][at]),
        )

    def times(self, episode: int) -> NDArray[np.int64]:
        """Time stamps of an episode from its beginning: `[n]` [ns]. Raises as `read`."""
        times: NDArray[np.float64] = self._table(episode)["timestamp"]
        return np.round(times * 1e9).astype(np.int64)

    def transition_starts(self, episode: int, stride: int) -> NDArray[np.int64]:
        """The frames that begin a transition over `stride` steps: no gap, no end in between."""
        times = self.times(episode)
        return robot_starts(self.spec, times, len(times), stride=stride)

    def transitions(self, episode: int, stride: int) -> Iterator[Transition]:
        """The transitions of an episode in order. Raises as `read`."""
        for start in self.transition_starts(episode, stride).tolist():
            part = self.read(episode, start, start + stride + 1)
            first, last = (_observation(part, row) for row in (0, stride))
            yield Transition(first, part.action[:stride], last)

    def _table(self, episode: int) -> Mapping[str, Any]:
        """The rows of an episode: numbers as arrays, images as they are stored, texts."""
        if self._rows is None or self._rows[0] != episode:
            self._rows = episode, self._read_rows(self.episodes[episode])
        return self._rows[1]

    def _read_rows(self, entry: EpisodeEntry) -> Mapping[str, Any]:
        file = entry.data_file
        stored = [key for key, feature in self._cameras.items() if feature.dtype == "image"]
        columns = [STATE, ACTION, "timestamp", "frame_index", "episode_index", "task_index"]
        only = [("episode_index", "==", entry.index)]
        table = read_table(file, [*columns, *stored], filters=only)
        if len(table) != entry.length:
            message = f"episode {entry.index} has {len(table)} rows, meta says {entry.length}"
            raise LeRobotError(file, "episode_index", message)
        rows: dict[str, Any] = {key: table[key] for key in stored}
        for name in (STATE, ACTION):
            (size,) = self.info.features[name].shape
            rows[name] = _vectors(file, name, table[name], size).astype(np.float32)
        times = _vectors(file, "timestamp", table["timestamp"], 1)[:, 0]
        frames = _vectors(file, "frame_index", table["frame_index"], 1)[:, 0]
        for name, values in (("timestamp", times), ("frame_index", frames)):
            if (np.diff(values) <= 0).any():
                raise LeRobotError(file, name, f"does not rise within episode {entry.index}")
        rows["timestamp"] = times.astype(np.float64)
        rows["task"] = [self._task(file, index) for index in table["task_index"].to_pylist()]
        return rows

    def _task(self, file: Path, index: int | None) -> str:
        text = None if index is None else self.tasks.get(index)
        if text is None:
            raise LeRobotError(file, "task_index", f"{index} is no task of meta/tasks")
        return text

    def _images(
        self, key: str, entry: EpisodeEntry, rows: Mapping[str, Any], at: slice
    ) -> NDArray[np.uint8]:
        height, width = self._cameras[key].image_size
        if at.start == at.stop:
            return np.zeros((0, height, width, 3), np.uint8)
        if key in entry.videos:
            span = entry.videos[key]
            file = span.file
            images = self._video(span, rows["timestamp"][at])
        else:
            file = entry.data_file
            stored = rows[key].slice(at.start, at.stop - at.start).to_pylist()
            images = _stack(file, key, [self._decode(file, key, item) for item in stored])
        if images.shape[1:] != (height, width, 3):
            message = f"images are {list(images.shape[1:])}, info.json says {[height, width, 3]}"
            raise LeRobotError(file, key, message)
        return images

    def _video(self, span: VideoSpan, times: NDArray[np.float64]) -> NDArray[np.uint8]:
        tolerance = _TOLERANCE / self.info.fps
        if span.to_s is not None and span.from_s + times[-1] > span.to_s + tolerance:
            message = (
                f"a frame at {times[-1]:.4f} s lies beyond the episode's part of the file, "
                f"{span.from_s:.4f} to {span.to_s:.4f} s"
            )
            raise LeRobotError(span.file, "to_timestamp", message)
        return read_frames(span.file, span.from_s + times, tolerance)

    def _decode(self, file: Path, key: str, item: Any) -> NDArray[np.uint8]:
        data = item.get("bytes") if isinstance(item, dict) else None
        if not data:
            raise LeRobotError(
                file, key, "holds no image bytes; expected a PNG or JPEG in each row"
            )
        try:
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise LeRobotError(file, key, f"cannot be decoded: {error}") from error


def _observation(part: EpisodeSlice, row: int) -> Observation:
    images = {name: frames[row] for name, frames in part.images.items()}
    return Observation(images, part.state[row], part.instructions[row])


def _stack(file: Path, key: str, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    sizes = {image.shape for image in images}
    if len(sizes) != 1:
        raise LeRobotError(file, key, f"images of one episode have several sizes: {sorted(sizes)}")
    return np.stack(images)


def _vectors(file: Path, name: str, column: Any, size: int) -> NDArray[Any]:
    """A column of numbers, or of lists of `size` numbers, as `[n, size]`. All finite."""
    joined = column.combine_chunks()
    values = joined.flatten() if hasattr(joined, "flatten") and _is_list(joined) else joined
    if joined.null_count or values.null_count or len(values) != size * len(joined):
        message = f"expected {size} numbers in each of {len(joined)} rows, got {len(values)}"
        raise LeRobotError(
            file, name, f"{message} and {joined.null_count + values.null_count} null"
        )
    numbers = values.to_numpy(zero_copy_only=False).reshape(len(joined), size)
    if not np.isfinite(numbers).all():
        row = int(np.argwhere(~np.isfinite(numbers))[0][0])
        raise LeRobotError(file, name, f"row {row} of the episode is not finite")
    return numbers


def _is_list(array: Any) -> bool:
    from pyarrow import types

    kind = array.type
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
