"""Recorded episodes: the arrays of the recording format, and what their rows mean."""

import json
from pathlib import Path

import numpy as np

from selfalign.data.recording import Recording, RecordingWriter
from selfalign.sim.env import KEYPOINTS, SimEnv
from selfalign.sim.recording import JOINTS_PADDED, commands_of, record_episode
from selfalign.sim.robots import make_arm


def test_rows_fill_the_recording_format(env: SimEnv, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with RecordingWriter(tmp_path / "motion", 60, len(KEYPOINTS)) as writer:
        for kind in ("play", "demo"):
            rows, meta = record_episode(env, kind, rng, steps=20)
            writer.append_episode(rows, meta)
    recording = Recording(tmp_path / "motion")
    assert len(recording) == sum(e["stop"] - e["start"] for e in recording.episodes)
    first = recording.episodes[0]
    assert first["arm"]["name"] == env.arm.name
    assert make_arm(first["arm"]["name"]) == env.arm
    assert recording["joints"].shape[1] == JOINTS_PADDED
    assert (recording["joints"][:, env.arm.joint_count :] == 0).all()


def test_metadata_is_json(panda: SimEnv) -> None:
    _, meta = record_episode(panda, "play", np.random.default_rng(0), steps=3)
    again = json.loads(json.dumps(meta))
    assert again["instruction"] == panda.instruction
    assert again["camera"]["fovy_deg"] == 45.0
    assert again["keypoints"] == list(KEYPOINTS)


def test_demo_ends_a_few_frames_after_success(panda: SimEnv) -> None:
    rows, meta = record_episode(panda, "demo", np.random.default_rng(1), extra_steps=3)
    assert meta["success"]
    assert (rows["success"] == 1).all()
    assert (rows["kind"] == 1).all()
    assert 5 <= len(rows["step"]) <= 30
    np.testing.assert_array_equal(rows["step"], np.arange(len(rows["step"])))


def test_each_row_shows_the_state_before_its_command(panda: SimEnv) -> None:
    rows, _ = record_episode(panda, "play", np.random.default_rng(2), steps=12)
    arrived = rows["tool"][1:] - rows["tool_target"][:-1]
    started = rows["tool"][:-1] - rows["tool_target"][:-1]
    assert np.linalg.norm(arrived, axis=1).sum() < 0.3 * np.linalg.norm(started, axis=1).sum()
    assert (rows["images"][0] != rows["images"][-1]).any()


def test_noise_disturbs_execution_but_not_labels(panda: SimEnv) -> None:
    clean, _ = record_episode(panda, "demo", np.random.default_rng(3))
    noisy, meta = record_episode(panda, "demo", np.random.default_rng(3), noise=0.8)
    assert meta["success"]
    np.testing.assert_array_equal(clean["tool_target"][0], noisy["tool_target"][0])
    count = min(len(clean["step"]), len(noisy["step"]))
    assert np.abs(clean["tool"][:count] - noisy["tool"][:count]).max() > 0.002


def test_rows_turn_back_into_commands(panda: SimEnv) -> None:
    rows, _ = record_episode(panda, "play", np.random.default_rng(4), steps=5)
    command = commands_of(rows, panda.arm.joint_count)
    assert command.joint_target.shape == (5, 7)
    assert command.measured.tool_rotation.shape == (5, 3, 3)
    np.testing.assert_array_equal(command.opening_target, rows["gripper_target"])


def test_same_seed_records_the_same_episode(panda: SimEnv) -> None:
    first, _ = record_episode(panda, "play", np.random.default_rng(5), steps=6)
    again, _ = record_episode(panda, "play", np.random.default_rng(5), steps=6)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name], err_msg=name)
