"""LeRobotDatasets: the frame, the state and the action that belong together, and every refusal."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("pyarrow") is None or importlib.util.find_spec("av") is None:
    pytest.skip("pyarrow or PyAV is not installed", allow_module_level=True)

import pyarrow as pa
from pyarrow import parquet

from selfalign.data.lerobot import LeRobotDataset
from selfalign.data.lerobot_format import LeRobotError
from selfalign.data.spec import Dimension
from tests.fakes.lerobot_dataset import (
    FPS,
    HEIGHT,
    WIDTH,
    Written,
    action_of,
    frame_of,
    number_of,
    numbers_of,
    state_of,
    write_v21,
    write_video,
)

FRONT = "observation.images.front"


def edit_info(root: Path, **fields: Any) -> None:
    file = root / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit_rows(root: Path, name: str, change: Any, file: str = "file-000") -> None:
    path = root / f"data/chunk-000/{file}.parquet"
    table = parquet.read_table(path, partitioning=None)
    at = table.column_names.index(name)
    parquet.write_table(table.set_column(at, name, change(table[name])), path)


@pytest.mark.parametrize("as_video", [True, False])
def test_every_frame_comes_with_its_own_state_action_and_task(
    tmp_path: Path, as_video: bool
) -> None:
    written = Written(as_video=as_video)
    dataset = LeRobotDataset(written.write(tmp_path))
    assert [entry.length for entry in dataset.episodes] == list(written.lengths)
    for episode, length in enumerate(written.lengths):
        part = dataset.read(episode)
        assert numbers_of(part.images["front"]) == [
            written.number(episode, t) for t in range(length)
        ]
        assert np.array_equal(part.state, [state_of(episode, t) for t in range(length)])
        assert np.array_equal(part.action, [action_of(episode, t) for t in range(length)])
        assert part.instructions == (written.tasks[episode % 2],) * length
        assert np.abs(part.t_ns - np.arange(length) * 10**9 // FPS).max() < 100
        types = (part.images["front"].dtype, part.state.dtype, part.action.dtype, part.t_ns.dtype)
        assert types == (np.uint8, np.float32, np.float32, np.int64)


def test_any_part_of_an_episode_can_be_read(tmp_path: Path) -> None:
    written = Written()
    dataset = LeRobotDataset(written.write(tmp_path))
    for start in range(9):
        for stop in range(start + 1, 10):
            part = dataset.read(2, start, stop)
            assert numbers_of(part.images["front"]) == [
                written.number(2, t) for t in range(start, stop)
            ]
            assert np.array_equal(part.action, [action_of(2, t) for t in range(start, stop)])
    empty = dataset.read(2, 3, 3)
    assert len(empty) == 0
    assert empty.images["front"].shape == (0, HEIGHT, WIDTH, 3)


def test_several_cameras_are_not_mixed_up(tmp_path: Path) -> None:
    names = ("observation.images.wrist", "observation.image")
    part = LeRobotDataset(Written(cameras=names).write(tmp_path)).read(1)
    assert list(part.images) == ["wrist", "image"]
    for slot, images in enumerate(part.images.values()):
        lower = images[:, HEIGHT // 2 + 4 :].astype(int).mean((0, 1, 2))
        assert int(lower.argmax()) == slot


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transition_holds_the_actions_executed_between_its_observations(
    tmp_path: Path, stride: int
) -> None:
    written = Written()
    dataset = LeRobotDataset(written.write(tmp_path))
    for episode, length in enumerate(written.lengths):
        found = list(dataset.transitions(episode, stride))
        assert len(found) == length - stride, "an episode's end was crossed, or a frame left out"
        for t, transition in enumerate(found):
            assert number_of(transition.observation.images["front"]) == written.number(episode, t)
            following = written.number(episode, t + stride)
            assert number_of(transition.following.images["front"]) == following
            assert np.array_equal(transition.following.state, state_of(episode, t + stride))
            expected = [action_of(episode, t + i) for i in range(stride)]
            assert np.array_equal(transition.actions, expected)


def test_no_transition_crosses_a_gap_in_time(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.6, 0.7, 0.8, 0.9]
    dataset = LeRobotDataset(Written(as_video=False, times={0: times}).write(tmp_path))
    assert dataset.transition_starts(0, 1).tolist() == [0, 1, 3, 4, 5]
    assert dataset.transition_starts(0, 2).tolist() == [0, 3, 4]
    assert dataset.transition_starts(1, 2).tolist() == [0, 1, 2]


def test_frames_are_found_by_their_time_also_where_rows_are_missing(tmp_path: Path) -> None:
    # Frames 2 and 3 were dropped from the table, not from the video.
    written = Written(lengths=(5,), times={0: [0.0, 0.1, 0.4, 0.5, 0.6]})
    dataset = LeRobotDataset(written.write(tmp_path))
    images = [frame_of(n) for n in range(1, 8)]
    video = tmp_path / "videos" / FRONT / "chunk-000/file-000.mp4"
    write_video(video, images, codec="libx264", options=written.options)
    rows = parquet.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    rows[0][f"videos/{FRONT}/to_timestamp"] = 0.7
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "meta/episodes/chunk-000/file-000.parquet")
    assert numbers_of(dataset.read(0, 0, 2).images["front"]) == [1, 2]
    again = LeRobotDataset(tmp_path)
    assert numbers_of(again.read(0).images["front"]) == [1, 2, 5, 6, 7]


def test_spec_is_that_of_features_and_statistics(tmp_path: Path) -> None:
    dataset = LeRobotDataset(Written().write(tmp_path))
    spec = dataset.spec
    assert (spec.name, spec.rate_hz) == ("so100", FPS)
    assert [(c.name, c.height, c.width) for c in spec.cameras] == [("front", HEIGHT, WIDTH)]
    assert [d.name for d in spec.action] == ["shoulder", "elbow", "gripper"]
    every = np.stack([action_of(e, t) for e, n in enumerate((7, 5, 9)) for t in range(n)])
    assert np.array_equal([d.low for d in spec.action], every.min(0))
    assert np.array_equal([d.high for d in spec.action], every.max(0))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"motors": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"delta_z": 2, "delta_x": 0, "delta_y": 1}, ["delta_x", "delta_y", "delta_z"]),
        (None, ["action_0", "action_1", "action_2"]),
        (["a", "a", "b"], ["action_0", "action_1", "action_2"]),
        (["action"], ["action_0", "action_1", "action_2"]),
    ],
)
def test_number_names_are_found_in_each_spelling(
    tmp_path: Path, names: Any, expected: list[str]
) -> None:
    root = Written(lengths=(2,), as_video=False).write(tmp_path)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["action"]["names"] = names
    edit_info(root, features=features)
    assert [d.name for d in LeRobotDataset(root).spec.action] == expected


def test_number_that_never_moved_gets_a_range(tmp_path: Path) -> None:
    root = Written(lengths=(3,), as_video=False).write(tmp_path)
    constant = LeRobotDataset(root).spec.action[2]
    assert (constant.low, constant.high) == (-1.0, 1.0)


def test_declared_spec_takes_the_place_of_the_derived_one(tmp_path: Path) -> None:
    root = Written(cameras=(FRONT, "observation.images.wrist")).write(tmp_path)
    derived = LeRobotDataset(root).spec
    wide = tuple(
        Dimension(name=d.name, unit="rad", low=d.low - 1, high=d.high + 1) for d in derived.action
    )
    spec = derived.model_copy(update={"action": wide, "cameras": derived.cameras[1:]})
    dataset = LeRobotDataset(root, spec=spec)
    assert dataset.spec is spec
    assert list(dataset.read(0).images) == ["wrist"]


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"rate_hz": 20.0}, r"info.json: fps: is 10, robot spec 'so100' declares 20 Hz"),
        ({"action": None}, r"features.action: has 3 numbers, .* declares 2"),
        ({"cameras": None}, r"camera front: robot spec 'so100' has front \(32, 40\)"),
    ],
)
def test_declared_spec_of_another_robot_is_refused(
    tmp_path: Path, update: dict[str, Any], words: str
) -> None:
    root = Written(as_video=False).write(tmp_path)
    spec = LeRobotDataset(root).spec
    narrow = spec.cameras[0].model_copy(update={"width": 40})
    changed = {"action": spec.action[:2], "cameras": (narrow,)}
    update = {key: changed.get(key) if value is None else value for key, value in update.items()}
    with pytest.raises(LeRobotError, match=words):
        LeRobotDataset(root, spec=spec.model_copy(update=update))


def test_version_21_reads_the_same(tmp_path: Path) -> None:
    written = Written()
    new = LeRobotDataset(written.write(tmp_path / "new"))
    old = LeRobotDataset(write_v21(written, tmp_path / "old"))
    assert old.spec == new.spec
    for episode in range(3):
        one, other = old.read(episode), new.read(episode)
        assert numbers_of(one.images["front"]) == numbers_of(other.images["front"])
        assert np.array_equal(one.action, other.action)
        assert one.instructions == other.instructions


def test_tasks_written_by_newer_lerobot_are_read(tmp_path: Path) -> None:
    dataset = LeRobotDataset(Written(as_video=False, task_column="task").write(tmp_path))
    assert dataset.tasks == {0: "touch the red cube", 1: "lift it"}


@pytest.mark.parametrize("version", ["v2.0", "v1.6", "v4.0"])
def test_other_version_is_refused_with_the_way_out(tmp_path: Path, version: str) -> None:
    root = Written(as_video=False, info={"codebase_version": version}).write(tmp_path)
    words = f"info.json: codebase_version: is {version}.*convert_dataset_v21_to_v30"
    with pytest.raises(LeRobotError, match=words):
        LeRobotDataset(root)


def test_folder_without_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LeRobotError, match=r"info.json: does not exist"):
        LeRobotDataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("observation.state", r"features.observation.state: is missing"),
        ("action", r"features.action: is missing"),
        (FRONT, r"features: hold no colour camera"),
    ],
)
def test_dataset_without_what_a_robot_needs_is_refused(
    tmp_path: Path, name: str, words: str
) -> None:
    root = Written(as_video=False).write(tmp_path)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    del features[name]
    edit_info(root, features=features)
    with pytest.raises(LeRobotError, match=words):
        LeRobotDataset(root)


def test_depth_map_is_no_camera(tmp_path: Path) -> None:
    root = Written(cameras=(FRONT, "observation.depth")).write(tmp_path)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.depth"]["info"] = {"is_depth_map": True}
    edit_info(root, features=features)
    assert [c.name for c in LeRobotDataset(root).spec.cameras] == ["front"]


@pytest.mark.parametrize("template", ["../../{chunk_index}.parquet", "/etc/x", "data/{chunk}"])
def test_path_template_that_leads_elsewhere_is_refused(tmp_path: Path, template: str) -> None:
    root = Written(as_video=False, info={"data_path": template}).write(tmp_path)
    with pytest.raises(LeRobotError, match=r"info.json: data_path or video_path: template"):
        LeRobotDataset(root)


def test_dataset_without_statistics_asks_for_a_spec(tmp_path: Path) -> None:
    root = Written(as_video=False).write(tmp_path)
    spec = LeRobotDataset(root).spec
    (root / "meta/stats.json").unlink()
    with pytest.raises(LeRobotError, match=r"observation.state: has no min and max.*--spec"):
        LeRobotDataset(root)
    assert len(LeRobotDataset(root, spec=spec).read(0)) == 7


def test_list_of_episodes_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    root = Written(as_video=False, info={"total_episodes": 4}).write(tmp_path)
    with pytest.raises(LeRobotError, match=r"total_episodes: is 4, but meta lists 3"):
        LeRobotDataset(root)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("action", lambda c: pa.array([[0.0, 1.0]] * len(c)), r"action: expected 3 numbers in"),
        ("action", lambda c: pa.array([None] * len(c), c.type), r"action: expected .* null"),
        (
            "observation.state",
            lambda c: pa.array([[0.0, float("nan"), 1.0]] * len(c)),
            r"observation.state: row 0 of the episode is not finite",
        ),
        ("timestamp", lambda c: pa.array([0.0] * len(c)), r"timestamp: does not rise"),
        ("task_index", lambda c: pa.array([7] * len(c)), r"task_index: 7 is no task"),
        ("episode_index", lambda c: pa.array([1] * len(c)), r"episode_index: episode 0 has 0 rows"),
    ],
)
def test_wrong_rows_are_refused_by_file_and_field(
    tmp_path: Path, name: str, change: Any, words: str
) -> None:
    root = Written(as_video=False).write(tmp_path)
    edit_rows(root, name, change)
    with pytest.raises(LeRobotError, match=r"data/chunk-000/file-000.parquet: " + words):
        LeRobotDataset(root).read(0)


def test_missing_column_is_refused_by_name(tmp_path: Path) -> None:
    root = Written(as_video=False).write(tmp_path)
    path = root / "data/chunk-000/file-000.parquet"
    parquet.write_table(parquet.read_table(path, partitioning=None).drop(["timestamp"]), path)
    with pytest.raises(LeRobotError, match=r"file-000.parquet: timestamp: no such column"):
        LeRobotDataset(root).read(0)


@pytest.mark.parametrize(
    "name",
    [
        "data/chunk-000/file-000.parquet",
        f"videos/{FRONT}/chunk-000/file-000.mp4",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/tasks.parquet",
        "meta/stats.json",
        "meta/info.json",
    ],
)
def test_broken_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    root = Written().write(tmp_path)
    (root / name).write_bytes(b"not what it says")
    with pytest.raises(LeRobotError, match=name):
        LeRobotDataset(root).read(0)


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_image_that_cannot_be_decoded_is_refused(tmp_path: Path, data: bytes) -> None:
    root = Written(as_video=False).write(tmp_path)
    edit_rows(root, FRONT, lambda c: pa.array([{"bytes": data, "path": "x"}] * len(c), c.type))
    with pytest.raises(LeRobotError, match=rf"file-000.parquet: {FRONT}: "):
        LeRobotDataset(root).read(0)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    root = Written().write(tmp_path)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features[FRONT]["shape"] = [3, 48, 64]
    edit_info(root, features=features)
    dataset = LeRobotDataset(root)
    assert (dataset.spec.cameras[0].height, dataset.spec.cameras[0].width) == (48, 64)
    with pytest.raises(LeRobotError, match=rf"{FRONT}: images are \[32, 80, 3\]"):
        dataset.read(0)


def test_episode_that_runs_over_its_part_of_the_video_is_refused(tmp_path: Path) -> None:
    written = Written(times={0: [t / FPS for t in (0, 1, 2, 3, 4, 5, 9)]})
    dataset = LeRobotDataset(written.write(tmp_path))
    with pytest.raises(LeRobotError, match=r"file-000.mp4: to_timestamp: a frame at 0.9000 s"):
        dataset.read(0)


def test_frames_beyond_the_episode_are_refused(tmp_path: Path) -> None:
    dataset = LeRobotDataset(Written(as_video=False).write(tmp_path))
    with pytest.raises(LeRobotError, match=r"frames \[3, 8\) of episode 0, which has 7"):
        dataset.read(0, 3, 8)
