"""Play labelled with what the expert would do: labels, prefixes, and how batches are made."""

from pathlib import Path

import numpy as np
import pytest
import torch

from selfalign.data.recording import Recording
from selfalign.model.policy import Policy
from selfalign.pretrain.cache import build_cache
from selfalign.pretrain.config import PretrainConfig, RecordConfig
from selfalign.pretrain.embodiments import load_groups, relabel
from selfalign.pretrain.hindsight import LabelledPlay, hindsight_cache, label_play
from selfalign.pretrain.record import record_groups
from selfalign.pretrain.stage1_data import Stage1Data
from selfalign.pretrain.trainer import open_labelled
from selfalign.sim.action_spaces import MOTION_STEP_M, random_space
from selfalign.sim.cameras import CameraPose, project, random_camera, unproject
from selfalign.sim.scene import COLOURS

REACH = {"reach": 1.0}


def test_unproject_undoes_project() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((0.2, -0.3, 0.0), (0.7, 0.3, 0.4), (50, 3))
    for _ in range(5):
        pose = random_camera(rng)
        np.testing.assert_allclose(unproject(pose, project(pose, points)), points, atol=1e-5)


@pytest.fixture(scope="module")
def recording(recorded: Path) -> Recording:
    return Recording(recorded / "recording")


# One unit is 40 mm or 0.15 rad: the arm follows commands to a few millimetres, no better.
@pytest.mark.parametrize(
    ("family", "worst", "mean"),
    [
        ("tool_rotated", 0.25, 0.03),
        ("tool_frame", 0.25, 0.03),
        ("tool_absolute", 0.25, 0.03),
        ("joint_permuted", 0.25, 0.03),
        ("joint_absolute", 0.25, 0.03),
    ],
)
def test_labels_are_what_the_recorded_expert_asked_for(
    recording: Recording, config: PretrainConfig, family: str, worst: float, mean: float
) -> None:
    # The same labelling applied to an undisturbed demonstration must give its own commands.
    demo = next(e for e in recording.episodes if e["kind"] == "demo" and e["success"])
    episode = demo | {"kind": "play"}
    copy = Recording(recording.directory)
    copy.episodes = [episode]
    hindsight = label_play(copy, horizon=4, colours=3, seed=0, tasks=REACH)
    own = np.flatnonzero(hindsight.colours == COLOURS.index(demo["colour"]))
    own = own[hindsight.rows[own] < demo["stop"] - 4]
    group = load_groups(recording, config.model)[demo["group"]]
    space = random_space(np.random.default_rng(1), family, group.arm)
    embodiment = relabel(recording, group, space, 32)
    steps = (hindsight.rows[own] - group.start)[:, None] + np.arange(4)
    got, wanted = hindsight.chunks(embodiment, own), embodiment.actions[steps]
    assert len(own) > 2
    assert np.abs(got - wanted)[..., :-1].max() < worst
    assert np.abs(got - wanted)[..., :-1].mean() < mean


@pytest.mark.parametrize("task", ["push", "lift"])
def test_push_and_lift_are_labelled_as_their_experts_act(task: str, tmp_path: Path) -> None:
    shape = RecordConfig(
        groups=2, held_out_groups=1, tasks={task: 1.0}, play_episodes=1, play_steps=8, demos=1
    )
    record_groups(shape.model_copy(update={"demo_noise": 0.0}), tmp_path / "recording")
    recording = Recording(tmp_path / "recording")
    demo = next(e for e in recording.episodes if e["kind"] == "demo" and e["success"])
    recording.episodes = [demo | {"kind": "play"}]
    hindsight = label_play(recording, horizon=4, colours=3, seed=0, tasks={task: 1.0})
    own = np.flatnonzero(hindsight.colours == COLOURS.index(demo["colour"]))
    own = own[hindsight.rows[own] < demo["stop"] - 4]
    rows = hindsight.rows[own][:, None] + np.arange(4)
    apart = np.linalg.norm(hindsight.targets[own] - recording["tool_target"][rows], axis=-1)
    opening = np.abs(hindsight.opening_targets[own] - recording["gripper_target"][rows])
    assert len(own) > 8
    # The phases change at the same steps or one step apart, and the way is the same.
    assert np.median(apart) < 0.002
    assert np.mean(apart > 0.02) < 0.15
    assert np.mean(opening > 0.01) < 0.15


def test_no_label_asks_for_more_than_the_longest_step(recording: Recording) -> None:
    hindsight = label_play(recording, horizon=3, colours=2, seed=0, tasks=REACH)
    length = np.linalg.norm(hindsight.targets - hindsight.tools, axis=-1)
    assert length.max() <= MOTION_STEP_M + 1e-6
    assert np.all(np.diff(hindsight.rows) >= 0)


def test_a_cube_off_the_table_is_never_labelled(recording: Recording) -> None:
    episode = next(e for e in recording.episodes if e["kind"] == "play")
    pose = CameraPose(**episode["camera"])
    lost = {name: recording[name] for name in ("keypoints", "tool")}
    points = np.array(lost["keypoints"])
    rows = slice(episode["start"], episode["stop"])
    points[rows, 6] = project(pose, np.array([0.5, 0.0, -0.4]))
    copy = Recording(recording.directory)
    copy.episodes = [episode]
    copy._arrays["keypoints"] = points
    hindsight = label_play(copy, horizon=2, colours=3, seed=0, tasks=REACH)
    assert set(hindsight.colours) == {1, 2}


def test_batches_mix_play_and_demonstrations_of_their_own_embodiment(
    recording: Recording, config: PretrainConfig
) -> None:
    torch.manual_seed(0)
    policy = Policy(config.model)
    hindsight = label_play(recording, config.model.horizon, colours=3, seed=0, tasks=REACH)
    labelled = LabelledPlay(hindsight, hindsight_cache(policy, recording, hindsight), share=0.5)
    data = Stage1Data(policy, recording, build_cache(policy, recording), 1, labelled)
    rng = np.random.default_rng(0)
    families = {"tool_yawed": 1.0}
    embodiments = [
        data.embodiment(group, rng, families, config.stage1) for group in data.train_groups
    ]
    prefix, state, chunk, mask = data.policy_frames(embodiments, rng, 4)
    assert len(prefix) == len(state) == len(chunk) == len(mask) == 4 * len(embodiments)
    kinds = np.asarray(recording["kind"])
    for number, embodiment in enumerate(embodiments):
        group, mine = embodiment.group, state[4 * number : 4 * number + 4]
        own = data.states[group.start : group.stop]
        rows = [int((own == s).all(1).nonzero()[0]) + group.start for s in mine]
        assert kinds[rows].tolist() == [0, 0, 1, 1]


def test_runs_of_other_seeds_label_the_same_frames(run_dir: Path, config: PretrainConfig) -> None:
    torch.manual_seed(0)
    policy, recording = Policy(config.model), Recording(run_dir / "recording")
    stage1 = config.stage1.model_copy(update={"hindsight": 0.5})
    first, second = (
        open_labelled(
            config.model_copy(update={"seed": seed, "stage1": stage1}), run_dir, policy, recording
        ).hindsight
        for seed in (1, 2)
    )
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.colours, second.colours)
    other = label_play(recording, config.model.horizon, 2, config.record.seed + 1, REACH)
    assert not np.array_equal(first.rows, other.rows)
