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


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    run = tmp_path_factory.mktemp("procedural")
    config = RecordConfig(
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
    try:
        record.record_missing(config, run)
    except SimulationUnavailable as error:
        pytest.skip(str(error))
    return Recording(run / "recording")


def test_every_group_has_a_procedural_arm_of_its_own(recording: Recording) -> None:
    arms = {e["group"]: e["arm"]["name"] for e in recording.episodes}
    assert sorted(arms.values()) == [f"procedural-{i}" for i in range(6)]


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
