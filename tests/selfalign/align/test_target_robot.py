"""A robot with absolute targets is seen, and acts, as its twin that is commanded by deltas."""

from pathlib import Path

import numpy as np
import pytest
import torch

from selfalign.align.cached_transitions import CachedTransitions
from selfalign.align.prefix_cache import PrefixCache
from selfalign.align.robot_io import RobotIO
from selfalign.data.continuation import Continuation
from selfalign.data.observation import Observation, ObservationMismatch
from selfalign.data.play_step import EpisodeSlice
from selfalign.data.transitions import robot_starts
from selfalign.errors import SpecError
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights
from tests.fakes.models import random_policy, random_w
from tests.fakes.target_robot import STEP, target_episode, target_spec
from tests.selfalign.align.test_cached_transitions import PLENTY, Episode
from tests.selfalign.align.test_robot_numbers import STATISTICS, policy_with


def observation_of(episode: EpisodeSlice, row: int) -> Observation:
    return Observation({"c0": episode.images["c0"][row]}, episode.state[row])


def small_w(policy: Policy) -> FastWeights:
    """Weights of a policy whose changes stay within the steps, so that nothing is limited."""
    return random_w(policy).map(lambda tensor: tensor * 0.05)


def test_numbers_of_transitions_are_those_of_a_loop_by_hand() -> None:
    io, episode = RobotIO(random_policy(), target_spec()), target_episode(12, gap=6)
    stride = io.policy.config.stride
    starts = robot_starts(io.spec, episode.t_ns, len(episode), stride=stride)
    batch = io.transitions(episode, starts)
    # Rows 0 and 6 have no command before them.
    assert starts.tolist() == [1, 2, 3, 7, 8, 9]
    for row, start in enumerate(starts.tolist()):
        for k in range(stride):
            now, before = episode.action[start + k], episode.action[start + k - 1]
            expected = [*((now[:2] - before[:2]) / STEP), 2 * now[2] - 1]
            found = batch.actions[row, k]
            np.testing.assert_allclose(found[:3], expected, atol=1e-5)
            assert not found[3:].any()
    assert batch.actions[..., :2].abs().max() <= 1 + 1e-5
    # The gripper is left out of the losses, as ever.
    assert batch.action_mask.sum(-1).tolist() == [2] * len(starts)


def test_a_transition_without_a_row_before_is_refused() -> None:
    io = RobotIO(random_policy(), target_spec())
    with pytest.raises(ValueError, match="begins at row 0, but its targets need 1 row before"):
        io.transitions(target_episode(5), np.array([1, 0]))


def test_cached_transitions_read_the_row_before(tmp_path: Path) -> None:
    io = RobotIO(random_policy(), target_spec())
    whole = [target_episode(9), target_episode(6, seed=1)]
    starts = [np.array([1, 2, 5]), np.array([3])]
    cache = PrefixCache(tmp_path, memory_bytes=PLENTY, disk_bytes=PLENTY)
    episodes = [Episode(str(i), steps) for i, steps in enumerate(whole)]
    found = CachedTransitions.of(io, cache, [*episodes], starts).load()
    at = 0
    for episode, rows in zip(whole, starts, strict=True):
        expected = io.transitions(episode, rows)
        part = found.index(torch.arange(at, at + len(rows)))
        torch.testing.assert_close(part.actions, expected.actions)
        torch.testing.assert_close(part.state, expected.state)
        torch.testing.assert_close(part.now.features, expected.now.features)
        torch.testing.assert_close(part.following.features, expected.following.features)
        at += len(rows)
    # Frames 1 to 5 and 7, 3 and 5; the row before gives its action, not its frame.
    assert cache.counts.misses == 8


@pytest.mark.parametrize("measured", [True, False])
def test_a_chunk_is_the_pose_plus_the_steps_of_the_delta_twin(measured: bool) -> None:
    policy, episode = random_policy(), target_episode(3)
    w, seen = small_w(policy), [observation_of(episode, row) for row in range(3)]
    spec = target_spec(measured=measured)
    twin = RobotIO(policy, target_spec(measured=measured, twin=True)).act(seen, w, seed=4)
    pose = np.array([[o.state[2], o.state[0]] for o in seen])
    given = [np.append(row, 0.5).astype(np.float32) for row in pose]
    found = RobotIO(policy, spec).act(
        seen, w, seed=4, last_commands=[None] * 3 if measured else given
    )
    place, steps = pose, np.clip(twin[..., :2], -np.array(STEP), STEP)
    for t in range(found.shape[1]):
        np.testing.assert_allclose(found[:, t, :2], place + twin[:, t, :2], atol=1e-5)
        place = np.clip(place + steps[:, t], -1, 3)
    np.testing.assert_array_equal(found[..., 2], twin[..., 2])


def test_one_command_before_belongs_to_each_observation() -> None:
    io, seen = RobotIO(random_policy(), target_spec()), [observation_of(target_episode(1), 0)]
    with pytest.raises(ValueError, match="2 commands for 1 observations"):
        io.act(seen, small_w(io.policy), last_commands=[None, None])
    with pytest.raises(ObservationMismatch, match="previous_action: expected the last command"):
        io.act(seen, small_w(io.policy))


@pytest.mark.parametrize("trained_delay", [0, 2])
def test_a_continued_chunk_begins_with_the_rows_being_executed(trained_delay: int) -> None:
    """Their numbers are changes too, the first one since the command before the first row."""
    io = RobotIO(random_policy(trained_delay=trained_delay), target_spec())
    w, episode = small_w(io.policy), target_episode(4)
    seen = [observation_of(episode, 0), observation_of(episode, 1)]
    rest = Continuation(episode.action[1:4], delay=2, until=3)
    commands = [episode.action[0], np.ones(3, np.float32)]
    found = io.act(seen, w, seed=1, continuations=[rest, None], last_commands=commands)
    free = io.act(seen, w, seed=1, last_commands=commands)
    np.testing.assert_allclose(found[0, :2], episode.action[1:3], atol=1e-5)
    assert np.abs(free[0, :2] - episode.action[1:3]).max() > 0.05
    np.testing.assert_allclose(found[1], free[1], atol=1e-4)


def test_a_continued_chunk_is_that_of_the_delta_twin() -> None:
    policy, episode = random_policy(), target_episode(4)
    w, seen = small_w(policy), [observation_of(episode, 0)]
    targets = episode.action[1:4]
    steps = targets.copy()
    steps[:, :2] = np.diff(episode.action[:4, :2], axis=0)
    found = RobotIO(policy, target_spec()).act(
        seen,
        w,
        seed=2,
        continuations=[Continuation(targets, 1, 3)],
        last_commands=[episode.action[0]],
    )
    twin = RobotIO(policy, target_spec(twin=True)).act(
        seen, w, seed=2, continuations=[Continuation(steps, 1, 3)]
    )
    limited = np.clip(twin[0, :, :2], -np.array(STEP), STEP)
    reached = episode.action[0, :2] + np.cumsum(limited, 0)
    before = np.vstack([episode.action[:1, :2], reached[:-1]])
    np.testing.assert_allclose(found[0, :, :2], before + twin[0, :, :2], atol=1e-5)


def test_a_model_with_statistics_refuses_targets() -> None:
    policy = policy_with(action=STATISTICS)
    with pytest.raises(SpecError, match=r"declares targets \(x, y\), but the model has statistics"):
        RobotIO(policy, target_spec())
    RobotIO(policy, target_spec(twin=True))
