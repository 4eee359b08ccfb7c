"""What is recorded: arms and cameras as the configuration asks."""

from pathlib import Path
from typing import Self

import numpy as np
import pytest

from selfalign.data.recording import Recording
from selfalign.pretrain import record
from selfalign.pretrain.config import RecordConfig
from selfalign.sim import SimulationUnavailable
from selfalign.sim.arm import Arm
from selfalign.sim.frames import Frame

CONFIG = RecordConfig(
    arms={"procedural": 1.0},
    groups=6,
    held_out_groups=2,
    play_episodes=1,
    play_steps=8,
    demos=1,
    frames=12,
    azimuth_deg=(-20, 60),
    azimuth_gap_deg=(-10, 50),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with six groups and twelve frames, recorded in one process."""
    directory = tmp_path_factory.mktemp("procedural")
    try:
        record.record_missing(CONFIG, directory)
    except SimulationUnavailable as error:
        pytest.skip(str(error))
    return directory


@pytest.fixture
def recording(run: Path) -> Recording:
    return Recording(run / "recording")


def test_every_group_has_a_procedural_arm_of_its_own(recording: Recording) -> None:
    arms = {e["group"]: e["arm"]["name"] for e in recording.episodes}
    assert sorted(arms.values()) == [f"procedural-{i}" for i in range(6)]


def test_another_seed_records_other_arms(run: Path, tmp_path: Path) -> None:
    record.record_groups(CONFIG.model_copy(update={"seed": 3}), tmp_path / "recording", jobs=1)
    arms = {e["arm"]["name"] for e in Recording(tmp_path / "recording").episodes}
    assert arms == {f"procedural-{30_000 + i}" for i in range(6)}


def test_no_camera_stands_in_the_gap(recording: Recording) -> None:
    azimuths = np.array([e["camera"]["azimuth_deg"] for e in recording.episodes])
    assert np.all((azimuths < -10) | (azimuths > 50))


def test_single_frames_show_arms_of_no_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: set[str] = set()

    class Stub:
        def __init__(self, arm: Arm) -> None:
            built.add(arm.name)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    blank = Frame(np.zeros((96, 96, 3), np.uint8), np.zeros((9, 3)), np.zeros(7), 0.0)
    monkeypatch.setattr(record, "SimEnv", Stub)
    monkeypatch.setattr(record, "random_frame", lambda *_: blank)
    config = RecordConfig(arms={"procedural": 1.0}, groups=6, held_out_groups=2, frames=200)
    config = config.model_copy(update={"frame_arms": 4})
    record.record_frames(config, tmp_path)
    assert built == {f"procedural-{1_000_000 + i}" for i in range(4)}


def test_two_processes_record_what_one_records(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_PART_GROUPS", 2)
    record.record_groups(CONFIG, tmp_path / "recording", jobs=2)
    one, two = Recording(run / "recording"), Recording(tmp_path / "recording")
    assert one.episodes == two.episodes
    for field in ("images", "joints", "tool_target", "keypoints", "episode", "kind"):
        assert np.array_equal(one[field], two[field]), field
    assert not (tmp_path / "recording.parts").exists()


def test_single_frames_of_all_parts_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_PART_FRAMES", 5)
    record.record_frames(CONFIG, tmp_path, jobs=1)
    images, points = (np.load(tmp_path / f"{name}.npy") for name in ("images", "keypoints"))
    assert images.shape[0] == points.shape[0] == 12
    assert images.any((1, 2, 3)).all()
    assert len(np.unique(points[:, 0], axis=0)) == 12


def test_a_recording_that_was_stopped_keeps_the_parts_that_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _stopped_after(monkeypatch, tmp_path / "recording", parts=2)
    record.record_groups(CONFIG, tmp_path / "recording", jobs=1)
    assert [path.name for path in made] == ["0", "1", "2"]
    assert {e["group"] for e in Recording(tmp_path / "recording").episodes} == set(range(6))


def test_parts_of_another_configuration_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _stopped_after(monkeypatch, tmp_path / "recording", parts=1)
    longer = CONFIG.model_copy(update={"play_steps": 9})
    record.record_groups(longer, tmp_path / "recording", jobs=1)
    assert [path.name for path in made] == ["0", "0", "1", "2"]
    episodes = Recording(tmp_path / "recording").episodes
    assert {e["stop"] - e["start"] for e in episodes if e["kind"] == "play"} == {9}


def _stopped_after(monkeypatch: pytest.MonkeyPatch, directory: Path, *, parts: int) -> list[Path]:
    """Record so many parts of two groups and be interrupted; what follows is not.

    Returns the directories of the parts that are made, these and later ones.
    """
    monkeypatch.setattr(record, "_PART_GROUPS", 2)
    made = _stop_after(monkeypatch, parts=parts)
    with pytest.raises(KeyboardInterrupt):
        record.record_groups(CONFIG, directory, jobs=1)
    return _stop_after(monkeypatch, parts=9, made=made)


def _stop_after(
    monkeypatch: pytest.MonkeyPatch, *, parts: int, made: list[Path] | None = None
) -> list[Path]:
    """Interrupt recording after so many parts. Returns the directories of those that are made."""
    made = [] if made is None else made
    left = parts

    def recorded(part: record.GroupsPart) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        whole(part)
        made.append(part.directory)

    whole = _RECORD
    monkeypatch.setattr(record.GroupsPart, "record", recorded)
    return made


_RECORD = record.GroupsPart.record
