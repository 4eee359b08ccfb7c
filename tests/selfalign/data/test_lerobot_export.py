"""Play that is exported and read again is the play that was recorded."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("pyarrow") is None:
    pytest.skip("pyarrow is not installed", allow_module_level=True)

from pyarrow import parquet

from selfalign.cli import main
from selfalign.data.lerobot import LeRobotDataset
from selfalign.data.lerobot_export import Exported, export_play
from selfalign.data.lerobot_stats import Tally
from selfalign.data.play_reader import PlayReader
from selfalign.data.play_store import PlayStore
from selfalign.errors import StoreError
from tests.fakes.play_steps import PERIOD_NS, assert_is_steps, small_spec, step

SPEC = small_spec()


def record(root: Path, *episodes: list[int], robot: str = "toy") -> PlayReader:
    """A store with these steps, an episode each."""
    spec = small_spec(name=robot)
    with PlayStore(root, quota_bytes=2**30, min_free_bytes=0) as store:
        for steps in episodes:
            writer = store.start_episode(spec)
            for index in steps:
                writer.append(step(index, spec))
            writer.seal()
    return PlayStore.reader(root)


def test_play_comes_back_as_it_was_recorded(tmp_path: Path) -> None:
    store = record(tmp_path / "play", list(range(70)), list(range(5)))
    done = export_play(store, tmp_path / "out")
    assert done == Exported(episodes=2, frames=75, left_out=0)
    dataset = LeRobotDataset(tmp_path / "out")
    assert dataset.spec == SPEC, "limits and units are lost"
    for episode, length in enumerate((70, 5)):
        got = dataset.read(episode)
        # LeRobot's clock begins with the episode.
        shifted = got.t_ns + PERIOD_NS
        assert np.abs(shifted - np.arange(1, length + 1) * PERIOD_NS).max() < 1000
        exact = np.arange(1, length + 1) * PERIOD_NS
        again = type(got)(got.images, got.state, got.action, exact, got.instructions)
        assert_is_steps(again, 0, length, SPEC)


def test_gap_in_time_ends_an_episode(tmp_path: Path) -> None:
    store = record(tmp_path / "play", [0, 1, 2, 10, 11, 12, 13, 20, 30, 31])
    done = export_play(store, tmp_path / "out")
    assert done == Exported(episodes=3, frames=9, left_out=1)
    dataset = LeRobotDataset(tmp_path / "out")
    found = []
    for episode in range(3):
        for transition in dataset.transitions(episode, 1):
            before = round(float(transition.observation.state[0]) * 1000)
            after = round(float(transition.following.state[0]) * 1000)
            assert round(float(transition.actions[0, 0]) * -1000) == before
            found.append((before, after))
    assert found == [(0, 1), (1, 2), (10, 11), (11, 12), (12, 13), (30, 31)]


def test_only_the_chosen_episodes_are_exported(tmp_path: Path) -> None:
    store = record(tmp_path / "play", [0, 1], [5, 6, 7])
    second = store.episodes()[1].id
    assert export_play(store, tmp_path / "out", ids=[second]).frames == 3
    assert LeRobotDataset(tmp_path / "out").read(0).state[0, 0] == np.float32(0.005)


def test_robots_are_not_mixed(tmp_path: Path) -> None:
    record(tmp_path / "play", [0, 1, 2])
    store = record(tmp_path / "play", [5, 6], robot="other")
    with pytest.raises(StoreError, match=r"one robot with one spec, .* of other, toy"):
        export_play(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export_play(store, tmp_path / "out", robot="other").frames == 2
    with pytest.raises(StoreError, match="no sealed episodes of robot 'third'"):
        export_play(store, tmp_path / "new", robot="third")


def test_target_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    store = record(tmp_path / "play", [0, 1])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thing").touch()
    with pytest.raises(StoreError, match="is not empty"):
        export_play(store, tmp_path / "out")


def test_play_of_nothing_but_gaps_is_refused(tmp_path: Path) -> None:
    store = record(tmp_path / "play", [0, 5, 10])
    with pytest.raises(StoreError, match=r"no two steps of .* follow one another"):
        export_play(store, tmp_path / "out")
    assert not (tmp_path / "out" / "meta" / "info.json").exists()


def test_files_are_laid_out_as_lerobot_has_them(tmp_path: Path) -> None:
    export_play(record(tmp_path / "play", list(range(12)), [0, 1]), tmp_path / "out")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"]) == ("v3.0", 10)
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 14, 2)
    assert info["features"]["action"] == {
        "dtype": "float32", "shape": [2], "names": ["d0", "d1"]
    }  # fmt: skip
    rows = parquet.read_table(
        tmp_path / "out/meta/episodes/chunk-000/file-000.parquet", partitioning=None
    ).to_pylist()
    spans = [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows]
    assert spans == [(0, 12), (12, 14)]
    assert rows[0]["tasks"] == ["touch the red cube", "play"]
    data = parquet.read_table(tmp_path / "out/data/chunk-000/file-000.parquet", partitioning=None)
    assert data["index"].to_pylist() == list(range(14))
    assert data["frame_index"].to_pylist() == [*range(12), 0, 1]
    assert data["task_index"].to_pylist() == [0] * 10 + [1, 1, 0, 0]


def test_statistics_are_those_of_the_numbers_and_pixels() -> None:
    rng = np.random.default_rng(0)
    rows, images = rng.normal(size=(50, 3)), rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    tally = Tally()
    for part in np.array_split(np.arange(50), 3):
        tally.add_numbers("x", rows[part])
    tally.add_images("picture", images[:2])
    tally.add_images("picture", images[2:])
    got = tally.result()
    np.testing.assert_allclose(got["x"]["min"], rows.min(0))
    np.testing.assert_allclose(got["x"]["std"], rows.std(0))
    np.testing.assert_allclose(got["x"]["q90"], np.quantile(rows, 0.9, axis=0))
    assert got["x"]["count"] == [50]
    pixels = images[:, ::4, ::4].reshape(-1, 3) / 255
    for name, expected in (
        ("min", pixels.min(0)), ("max", pixels.max(0)), ("mean", pixels.mean(0)),
        ("std", pixels.std(0)), ("q50", np.quantile(pixels, 0.5, axis=0, method="inverted_cdf")),
    ):  # fmt: skip
        np.testing.assert_allclose(np.ravel(got["picture"][name]), expected, atol=1e-9)
        assert np.shape(got["picture"][name]) == (3, 1, 1)
    assert got["picture"]["count"] == [6]


def test_command_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "play", [0, 1, 2, 10])
    command = ["export", "--play", str(tmp_path / "play"), "--to", str(tmp_path / "out")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "3 steps in 1 episodes written to" in out
    assert "1 steps that stand alone between gaps in time were left out" in out
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
