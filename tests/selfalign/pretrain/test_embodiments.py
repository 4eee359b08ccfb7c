"""Stage 1 sees a robot exactly as the server will: states, actions, images, prompts."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from selfalign.align.robot_io import RobotIO
from selfalign.align.robot_numbers import RobotNumbers
from selfalign.data.normalisation import Normaliser
from selfalign.data.recording import PLAY, Recording
from selfalign.model.checkpoint import make_dummy_policy
from selfalign.model.policy import Policy
from selfalign.pretrain.cache import build_cache, play_length
from selfalign.pretrain.config import PretrainConfig
from selfalign.pretrain.embodiments import (
    draw_space,
    load_groups,
    normalised_states,
    other_limits,
    relabel,
)
from selfalign.pretrain.hindsight import LabelledPlay, hindsight_cache, label_play
from selfalign.pretrain.stage1_data import Stage1Data
from selfalign.sim.action_spaces import FAMILIES, ActionSpace, ToolAbsolute, ToolDelta
from selfalign.sim.env import SimEnv
from selfalign.sim.play import RandomPlay
from selfalign.sim.recording import record_episode
from selfalign.sim.robots import make_arm


@pytest.fixture
def recording(recorded: Path) -> Recording:
    return Recording(recorded / "recording")


def test_groups_cover_the_recording_and_stay_within_episodes(
    recording: Recording, config: PretrainConfig
) -> None:
    groups = load_groups(recording, config.model)
    assert groups[0].start == 0
    assert groups[-1].stop == len(recording)
    assert all(a.stop == b.start for a, b in itertools.pairwise(groups))
    episode, kind = recording["episode"], recording["kind"]
    for group in groups:
        for row in group.transitions:
            assert episode[row] == episode[row + config.model.stride]
            assert kind[row] == PLAY
        for row in group.chunks:
            assert episode[row] == episode[row + config.model.horizon - 1]
            assert kind[row] != PLAY
        assert len(group.transitions) == 2 * (20 - config.model.stride)


@pytest.mark.parametrize("family", FAMILIES)
def test_relabelled_play_is_what_a_robot_in_that_space_executes(
    recording: Recording, config: PretrainConfig, family: str
) -> None:
    group = load_groups(recording, config.model)[0]
    rng = np.random.default_rng(4)
    embodiment = relabel(recording, group, draw_space(rng, {family: 1.0}, group.arm), 32)
    meta = recording.episodes[0]
    assert meta["kind"] == "play"
    with SimEnv(group.arm, embodiment.space) as env:
        numbers = RobotNumbers(env.spec, config.model)
        for row in range(0, 20, 7):
            # Put the arm where it was, and ask the space for the recorded action's command.
            joints = recording["joints"][row][: group.arm.joint_count].astype(float)
            env.place_arm(joints, float(recording["gripper"][row]))
            # Standing still was the last command: so do labels count it.
            action = numbers.raw_actions(
                embodiment.actions[[[row]]], env.observe().state[None], env.held_action()[None]
            )[0, 0]
            command = env.action_space.decode(action.astype(float), env.measure(), env.kinematics)
            wanted = recording["joint_target"][row][: group.arm.joint_count]
            np.testing.assert_allclose(command.joint_target, wanted, atol=2e-3)
            opening = float(recording["gripper_target"][row])
            assert float(command.opening_target) == pytest.approx(opening, abs=1e-4)
        assert embodiment.action_mask.tolist() == numbers.action_normaliser.mask.tolist()


def test_states_are_normalised_as_the_server_does(
    recording: Recording, config: PretrainConfig
) -> None:
    groups = load_groups(recording, config.model)
    states, mask = normalised_states(recording, groups, 32)
    arm = groups[0].arm
    with SimEnv(arm) as env:
        normaliser = Normaliser.for_state(env.spec)
    raw = np.concatenate(
        [recording["joints"][:, : arm.joint_count], recording["gripper"][:, None]], axis=1
    )
    np.testing.assert_allclose(states, normaliser.normalise(raw), atol=1e-5)
    # The gripper is in the state, but alignment does not predict it.
    assert mask.sum(-1).tolist() == [arm.joint_count] * len(recording)
    assert normaliser.mask.sum() == arm.joint_count + 1


def test_cached_prefixes_are_those_that_the_server_computes(
    recording: Recording, config: PretrainConfig
) -> None:
    policy = make_dummy_policy(0, config.model)
    cache = build_cache(policy, recording)
    group = load_groups(recording, config.model)[0]
    with SimEnv(group.arm) as env:
        io = RobotIO(policy, env.spec)
    rows = torch.from_numpy(group.transitions[:5])
    cached = cache.at(rows, play_length(cache, recording))
    served = io.frame_prefixes({"front": np.asarray(recording["images"][group.transitions[:5]])})
    assert torch.equal(cached.mask, served.mask)
    assert cached.image_tokens == served.image_tokens
    # The cache holds half floats.
    torch.testing.assert_close(cached.key_values, served.key_values, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(cached.features, served.features, rtol=1e-4, atol=1e-4)


def test_recorded_play_is_what_the_robot_measures_when_it_plays_through_its_space() -> None:
    arm = make_arm("panda")
    with SimEnv(arm) as env:
        rows, _ = record_episode(env, "play", np.random.default_rng(3), steps=12)
        env.reset(seed=int(np.random.default_rng(3).integers(2**31)))
        rng = np.random.default_rng(3)
        rng.integers(2**31)
        play, spec = RandomPlay(rng), env.spec
        state_normaliser = Normaliser.for_state(spec)
        for row in range(12):
            observation = env.observe()
            measured = np.append(rows["joints"][row][:7], rows["gripper"][row])
            np.testing.assert_allclose(
                state_normaliser.normalise(observation.state),
                state_normaliser.normalise(measured),
                atol=1e-3,
            )
            env.step(env.action_space.encode(play.command(env)))


def test_other_limits_number_the_state_as_a_spec_that_declares_them(
    recording: Recording, config: PretrainConfig
) -> None:
    group = load_groups(recording, config.model)[0]
    n, limits = group.arm.joint_count, np.array(group.arm.joint_limits)
    states, mask = (a[group.start : group.stop] for a in normalised_states(recording, [group], 32))
    middles, widths = [], []
    for seed in range(40):
        scale, shift = other_limits(np.random.default_rng(seed), states, mask[0])
        # Where -1 and 1 of the new numbers lie, in radians.
        ends = (np.array([[-1], [1]]) - shift[:n]) / scale[:n]
        low, high = limits.mean(1) + ends * (limits[:, 1] - limits[:, 0]) / 2
        declared = Normaliser(low, high)
        joints = recording["joints"][group.start : group.stop, :n]
        shown = states * scale + shift
        np.testing.assert_allclose(shown[:, :n], declared.normalise(joints)[:, :n], atol=1e-5)
        assert np.abs(shown[:, :n]).max() <= 0.95 + 1e-5
        # Gripper and padding are as they were.
        np.testing.assert_array_equal(shown[:, n:], states[:, n:])
        widths.append((high - low) / (limits[:, 1] - limits[:, 0]))
        middles.append(shown[:, :n].mean(0))
    assert np.min(widths) < 0.7
    assert 1.8 < np.max(widths) <= 2.5 + 1e-5
    # Nothing tells beforehand where in its limits a joint works.
    assert np.ptp(middles, axis=0).min() > 0.5


def test_every_batch_of_an_embodiment_has_its_declared_limits(
    recording: Recording, config: PretrainConfig
) -> None:
    torch.manual_seed(0)
    policy = Policy(config.model)
    hindsight = label_play(recording, config.model.horizon, 3, 0, {"reach": 1.0})
    labelled = LabelledPlay(hindsight, hindsight_cache(policy, recording, hindsight), share=0.5)
    data = Stage1Data(policy, recording, build_cache(policy, recording), 1, labelled)
    group, families = data.train_groups[0], {"tool_yawed": 1.0}

    def batches(limits: float) -> tuple[list[torch.Tensor], list[torch.Tensor], np.ndarray]:
        stage1 = config.stage1.model_copy(update={"other_limits": limits})
        ours = [data.embodiment(group, np.random.default_rng(s), families, stage1) for s in (0, 1)]
        states = [
            data.transitions(ours, np.random.default_rng(1), 3, "query").state,
            data.demonstrations(ours, np.random.default_rng(2), 3)[1],
            data.policy_frames(ours, np.random.default_rng(3), 4)[1],
        ]
        numbers = [torch.from_numpy(np.stack([e.state_scale, e.state_shift])) for e in ours]
        return states, numbers, ours[0].actions

    plain, (own, _), actions = batches(0.0)
    assert own.flatten().tolist() == [1, 0]
    other, numbers, same_actions = batches(1.0)
    np.testing.assert_array_equal(actions, same_actions)
    assert not torch.equal(numbers[0], numbers[1])
    for before, after in zip(plain, other, strict=True):
        expected = torch.cat(
            [
                part * scale + shift
                for part, (scale, shift) in zip(before.chunk(2), numbers, strict=True)
            ]
        )
        torch.testing.assert_close(after, expected)
        assert not torch.allclose(before, after)


def test_motion_is_how_large_a_space_makes_the_numbers_of_the_same_motion(
    recording: Recording,
) -> None:
    group = load_groups(recording, make_dummy_policy().config)[0]

    def motion(space: ActionSpace) -> float:
        return relabel(recording, group, space, 32).motion

    assert motion(ToolDelta()) == pytest.approx(1)
    assert motion(ToolDelta(scale=0.5)) == pytest.approx(4, rel=1e-4)
    # Targets are seen by their change, as deltas are; where the tool is does not count.
    assert motion(ToolAbsolute(offset=np.ones(3))) == pytest.approx(1, rel=1e-3)


def test_errors_are_weighted_by_motion_within_bounds(
    recording: Recording, config: PretrainConfig
) -> None:
    torch.manual_seed(0)
    policy = Policy(config.model)
    cache = build_cache(policy, recording)
    for most, expected in ((1.0, 1.0), (2.0, 0.5), (8.0, 0.25)):
        data = Stage1Data(policy, recording, cache, 1, most_weight=most)
        embodiment = relabel(recording, data.train_groups[0], ToolDelta(scale=0.5), 32)
        mask = data.policy_frames([embodiment], np.random.default_rng(0), 3)[3]
        assert mask[:, :4].unique().tolist() == pytest.approx([expected], rel=1e-4)
        assert not mask[:, 4:].any()
