"""Where the episodes of a LeRobotDataset lie, what its tasks say, and its statistics."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.lerobot_format import (
    DatasetInfo,
    LeRobotError,
    column_names,
    read_json,
    read_lines,
    read_table,
)

_EPISODES, _TASKS, _STATS = "meta/episodes", "meta/tasks.parquet", "meta/stats.json"


@final
@dataclass(frozen=True)
class VideoSpan:
    """The part [from_s, to_s) of a video file that shows one episode; `to_s` None: to the end."""

    file: Path
    from_s: float
    to_s: float | None


@final
@dataclass(frozen=True)
class EpisodeEntry:
    """One episode: its number in the dataset, its frames, its data file and videos by feature."""

    index: int
    length: int
    data_file: Path
    videos: Mapping[str, VideoSpan]


@final
@dataclass(frozen=True, eq=False)
class Limits:
    """Smallest and largest value of each number of a feature, [D] each."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def read_episodes(root: Path, info: DatasetInfo) -> tuple[EpisodeEntry, ...]:
    """List the episodes in their order.

    Raises:
        LeRobotError: the list is missing or broken, or has another length than info.json says.
    """
    videos = [key for key, feature in info.cameras.items() if feature.dtype == "video"]
    found = _episodes_v3(root, info, videos) if info.layout == "v3" else _old(root, info, videos)
    found.sort(key=lambda entry: entry.index)
    if len(found) != info.total_episodes:
        message = f"is {info.total_episodes}, but meta lists {len(found)} episodes"
        raise LeRobotError(root / "meta/info.json", "total_episodes", message)
    return tuple(found)


def read_tasks(root: Path, info: DatasetInfo) -> dict[int, str]:
    """The instructions by task_index. Raises LeRobotError."""
    if info.layout == "v2.1":
        file = root / "meta/tasks.jsonl"
        return {int(_value(file, row, "task_index")): row["task"] for row in read_lines(file)}
    file = root / _TASKS
    names = column_names(file)
    # Written by pandas: the text is the index, which older versions of lerobot do not name.
    text = next((name for name in ("task", "__index_level_0__") if name in names), None)
    if text is None:
        raise LeRobotError(file, "task", f"no such column, only {', '.join(names)}")
    table = read_table(file, ["task_index", text])
    pairs = zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True)
    return {int(index): str(task) for index, task in pairs}


def read_limits(root: Path, info: DatasetInfo, feature: str) -> Limits | None:
    """The range of a feature as meta states it; None where it does not.

    Raises:
        LeRobotError: statistics are there, but not of this feature's length.
    """
    sources = _old_stats(root, feature) if info.layout == "v2.1" else None
    file = root / (_STATS if sources is None else "meta/episodes_stats.jsonl")
    if sources is None:
        if not file.exists():
            return None
        sources = [read_json(file).get(feature, {})]
    if not sources or any("min" not in s or "max" not in s for s in sources):
        return None
    low = np.min([np.ravel(source["min"]) for source in sources], axis=0).astype(np.float64)
    high = np.max([np.ravel(source["max"]) for source in sources], axis=0).astype(np.float64)
    (size,) = info.features[feature].shape
    for name, values in (("min", low), ("max", high)):
        if values.shape != (size,) or not np.isfinite(values).all():
            message = f"expected {size} finite numbers, got {values.tolist()}"
            raise LeRobotError(file, f"{feature}.{name}", message)
    return Limits(low, high)


def _episodes_v3(root: Path, info: DatasetInfo, videos: list[str]) -> list[EpisodeEntry]:
    files = sorted((root / _EPISODES).rglob("*.parquet"))
    if not files:
        raise LeRobotError(root / _EPISODES, "", "holds no parquet file with episodes")
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    fields = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns += [f"videos/{key}/{field}" for key in videos for field in fields]
    return [
        EpisodeEntry(
            index=int(_value(file, row, "episode_index")),
            length=int(_value(file, row, "length")),
            data_file=_file(root, info.data_path, file, row, "data"),
            videos={key: _span(root, info, file, row, key) for key in videos},
        )
        for file in files
        for row in read_table(file, columns).to_pylist()
    ]


def _span(root: Path, info: DatasetInfo, file: Path, row: dict[str, Any], key: str) -> VideoSpan:
    assert info.video_path is not None, "checked when info.json was read"
    prefix = f"videos/{key}"
    return VideoSpan(
        _file(root, info.video_path, file, row, prefix, video_key=key),
        float(_value(file, row, f"{prefix}/from_timestamp")),
        float(_value(file, row, f"{prefix}/to_timestamp")),
    )


def _file(
    root: Path, template: str, source: Path, row: dict[str, Any], prefix: str, **more: str
) -> Path:
    names = ("chunk_index", "file_index")
    numbers = {name: int(_value(source, row, f"{prefix}/{name}")) for name in names}
    return _filled(root, template, {**numbers, **more})


def _old(root: Path, info: DatasetInfo, videos: list[str]) -> list[EpisodeEntry]:
    """Version 2.1: one data file and one video of each camera an episode."""
    file, entries = root / "meta/episodes.jsonl", []
    for row in read_lines(file):
        index = int(_value(file, row, "episode_index"))
        where = {"episode_index": index, "episode_chunk": index // info.chunks_size}
        data_file = _filled(root, info.data_path, where)
        paths = {
            key: _filled(root, info.video_path or "", where | {"video_key": key}) for key in videos
        }
        spans = {key: VideoSpan(path, 0.0, None) for key, path in paths.items()}
        entries.append(EpisodeEntry(index, int(_value(file, row, "length")), data_file, spans))
    return entries


def _old_stats(root: Path, feature: str) -> list[dict[str, Any]] | None:
    file = root / "meta/episodes_stats.jsonl"
    if not file.exists():
        return None
    return [row.get("stats", {}).get(feature, {}) for row in read_lines(file)]


def _filled(root: Path, template: str, values: Mapping[str, object]) -> Path:
    """A path template of info.json with its numbers; never outside the dataset."""
    problem = "leads out of the dataset"
    try:
        path = Path(template.format(**values))
        # Files of the Hub's cache are links out of it: names are compared, not what they lead to.
        if not path.is_absolute() and ".." not in path.parts:
            return root / path
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        problem = f"cannot be filled: {error}"
    message = f"template {template!r} {problem}"
    raise LeRobotError(root / "meta/info.json", "data_path or video_path", message)


def _value(file: Path, row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    if value is None:
        raise LeRobotError(file, name, "has no value in a row")
    return value
