"""Recordings for stage 1: what is appended is read, what is unfinished is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfalign.data.recording import (
    IMAGE_SIZE,
    JOINTS,
    PLAY,
    Recording,
    RecordingWriter,
    join_recordings,
)
from selfalign.errors import StoreError


def rows(count: int, value: int) -> dict[str, Any]:
    """An episode whose every number is `value`."""
    shapes = {
        "images": (IMAGE_SIZE, IMAGE_SIZE, 3),
        "joints": (JOINTS,),
        "joint_target": (JOINTS,),
        "gripper": (),
        "gripper_target": (),
        "tool": (3,),
        "tool_rotation": (3, 3),
        "tool_target": (3,),
        "keypoints": (2, 3),
    }
    constants = dict.fromkeys(("kind", "task", "colour", "success"), PLAY)
    arrays = {name: np.full((count, *shape), value) for name, shape in shapes.items()}
    return arrays | {name: np.full(count, v) for name, v in constants.items()}


def test_episodes_are_read_as_they_were_appended(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r", capacity=20, n_keypoints=2) as writer:
        writer.append_episode(rows(3, 7), {"group": 0})
        writer.append_episode(rows(2, 9), {"group": 1})
    recording = Recording(tmp_path / "r")
    assert len(recording) == len(recording["images"]) == 5
    assert recording.episodes == [
        {"group": 0, "start": 0, "stop": 3},
        {"group": 1, "start": 3, "stop": 5},
    ]
    assert recording["episode"].tolist() == [0, 0, 0, 1, 1]
    assert recording["step"].tolist() == [0, 1, 2, 0, 1]
    for field in ("images", "tool", "tool_rotation", "keypoints"):
        assert (recording[field][:3] == 7).all()
        assert (recording[field][3:] == 9).all()


def test_reader_cannot_write(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path, capacity=2, n_keypoints=2) as writer:
        writer.append_episode(rows(1, 1), {})
    with pytest.raises(ValueError, match="read-only"):
        Recording(tmp_path)["tool"][0] = 5


def test_recording_that_was_not_closed_cannot_be_read_but_recorded_again(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, capacity=4, n_keypoints=2)
    writer.append_episode(rows(2, 1), {})
    with pytest.raises(StoreError, match="holds no finished recording"):
        Recording(tmp_path)
    with RecordingWriter(tmp_path, capacity=4, n_keypoints=2) as again:
        again.append_episode(rows(1, 3), {})
    assert len(Recording(tmp_path)) == 1


def test_finished_recording_is_not_written_over(tmp_path: Path) -> None:
    RecordingWriter(tmp_path, capacity=1, n_keypoints=2).close()
    with pytest.raises(StoreError, match="holds a recording already"):
        RecordingWriter(tmp_path, capacity=1, n_keypoints=2)


def test_episode_beyond_the_capacity_is_refused_whole(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path, capacity=4, n_keypoints=2) as writer:
        writer.append_episode(rows(3, 1), {})
        with pytest.raises(StoreError, match="holds 4 frames; 5 do not fit"):
            writer.append_episode(rows(2, 2), {})
    assert len(Recording(tmp_path)) == 3


def test_joined_recordings_are_one(tmp_path: Path) -> None:
    for name, value in (("a", 7), ("b", 9)):
        with RecordingWriter(tmp_path / name, capacity=9, n_keypoints=2) as writer:
            writer.append_episode(rows(3, value), {"group": value})
            writer.append_episode(rows(1, value + 1), {"group": value})
    join_recordings([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    joined = Recording(tmp_path / "all")
    assert [(e["group"], e["start"], e["stop"]) for e in joined.episodes] == [
        (7, 0, 3),
        (7, 3, 4),
        (9, 4, 7),
        (9, 7, 8),
    ]
    assert joined["tool"][:, 0].tolist() == [7, 7, 7, 8, 9, 9, 9, 10]
    assert joined["episode"].tolist() == [0, 0, 0, 1, 2, 2, 2, 3]
    assert joined["step"].tolist() == [0, 1, 2, 0, 0, 1, 2, 0]
    with pytest.raises(StoreError, match="holds no finished recording"):
        join_recordings([tmp_path / "c"], tmp_path / "other")
