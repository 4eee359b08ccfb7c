"""Datasets that lerobot wrote, read by us and by lerobot. Off by default: lerobot is no dependency.

python3.11 -m venv ENV && ENV/bin/pip install 'lerobot==0.4.4'
SELFALIGN_LEROBOT_PYTHON=ENV/bin/python pytest -m slow tests/selfalign/data/test_lerobot_itself.py
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("av")

from selfalign.data.lerobot import LeRobotDataset
from selfalign.data.lerobot_export import export_play
from selfalign.data.play_store import PlayStore
from tests.fakes.lerobot_dataset import FPS, action_of, frame_of, number_of, state_of
from tests.fakes.play_steps import small_spec, step

LENGTHS = (12, 5, 20, 9)
TASKS = ("touch the red cube", "lift it")
WRITER = Path(__file__).parents[2] / "fakes" / "lerobot_writer.py"

PYTHON = os.environ.get("SELFALIGN_LEROBOT_PYTHON")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="SELFALIGN_LEROBOT_PYTHON names no interpreter"),
]


@pytest.fixture(scope="module", params=["video", "image"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    frames = [(e, t) for e, length in enumerate(LENGTHS) for t in range(length)]
    images = {
        f"observation.images.{name}": [frame_of(i + 1, camera=c) for i in range(len(frames))]
        for c, name in enumerate(("front", "wrist"))
    }
    numbers = {
        "episode": [episode for episode, _ in frames],
        "task": [TASKS[episode % 2] for episode, _ in frames],
        "observation.state": [state_of(*frame) for frame in frames],
        "action": [action_of(*frame) for frame in frames],
    }
    np.savez(root / "source.npz", **{k: np.stack(v) for k, v in (numbers | images).items()})
    run_lerobot(root, request.param)
    return root


def run_lerobot(root: Path, kind: str) -> None:
    command = [str(PYTHON), str(WRITER), str(root), kind]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "home")}
    subprocess.run(command, check=True, timeout=300, env=environment)


def test_episodes_are_those_that_were_recorded(written: Path) -> None:
    dataset = LeRobotDataset(written / "dataset")
    assert [entry.length for entry in dataset.episodes] == list(LENGTHS)
    assert dataset.spec.name == "so100_follower"
    assert dataset.spec.rate_hz == FPS
    number = 0
    for episode, length in enumerate(LENGTHS):
        part = dataset.read(episode)
        for images in part.images.values():
            shown = [number_of(image) for image in images]
            assert shown == list(range(number + 1, number + length + 1))
        assert part.instructions == (TASKS[episode % 2],) * length
        number += length


def test_transitions_are_those_of_lerobots_own_reader(written: Path) -> None:
    dataset, read = LeRobotDataset(written / "dataset"), np.load(written / "read.npz")
    state, action = read["observation.state"], read["action"][:, 0]
    inside = ~read["observation.state_is_pad"][:, 1]
    expected = np.flatnonzero(inside)
    found, first = [], 0
    for episode, length in enumerate(LENGTHS):
        starts = dataset.transition_starts(episode, 1)
        for start, transition in zip(starts, dataset.transitions(episode, 1), strict=True):
            row = first + start
            assert np.array_equal(transition.observation.state, state[row, 0])
            assert np.array_equal(transition.following.state, state[row, 1])
            assert np.array_equal(transition.actions[0], action[row])
            for name in ("front", "wrist"):
                key = f"observation.images.{name}"
                if key in read:
                    pair = (read[key][row] * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
                    assert np.array_equal(transition.observation.images[name], pair[0])
                    assert np.array_equal(transition.following.images[name], pair[1])
            found.append(row)
        first += length
    assert found == expected.tolist()


def test_lerobot_reads_what_we_export(tmp_path: Path) -> None:
    spec = small_spec()
    with PlayStore(tmp_path / "play", quota_bytes=2**30, min_free_bytes=0) as store:
        writer = store.start_episode(spec)
        for index in (*range(9), *range(20, 32)):
            writer.append(step(index, spec))
        writer.seal()
    export_play(PlayStore.reader(tmp_path / "play"), tmp_path / "dataset")
    run_lerobot(tmp_path, "read")
    read = np.load(tmp_path / "read.npz")
    kept = [*range(9), *range(20, 32)]
    assert read["episode_index"].tolist() == [0] * 9 + [1] * 12
    for row, index in enumerate(kept):
        expected = step(index, spec)
        assert read["tasks"][row] == expected.observation.instruction
        assert np.array_equal(read["observation.state"][row, 0], expected.observation.state)
        assert np.array_equal(read["action"][row, 0], expected.action)
        for name, image in expected.observation.images.items():
            shown = (read[f"observation.images.{name}"][row, 0] * 255).round().astype(np.uint8)
            assert np.array_equal(shown.transpose(1, 2, 0), image)
    ends = np.flatnonzero(read["observation.state_is_pad"][:, 1])
    assert ends.tolist() == [8, 20]
    states = np.stack([step(index, spec).observation.state for index in kept])
    np.testing.assert_allclose(
        read["limits/observation.state"], np.stack([states.min(0), states.max(0)])
    )
