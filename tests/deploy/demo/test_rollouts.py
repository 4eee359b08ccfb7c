"""Episodes are counted as they went: by a policy that can, and by one that cannot."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from client import ActionChunk
from deploy.demo.embodiments import draw_embodiment
from deploy.demo.rollouts import WrongVersion, measure, run_episode
from deploy.demo.simulated_robot import SimulatedRobot
from selfalign.sim.experts import scripted_expert

HORIZON = 4


class FakeClient:
    """Answers with the scripted expert's action and three more that stay, or with stillness."""

    def __init__(self, robot: SimulatedRobot, *, is_expert: bool, version: int = 0) -> None:
        self._robot, self._is_expert, self._version = robot, is_expert, version
        self.seeds: list[int] = []
        self.previous: list[np.ndarray] = []

    def act(
        self, _: Any, *, observation_seq: int, seed: int, previous_action: np.ndarray
    ) -> ActionChunk:
        self.seeds.append(seed)
        self.previous.append(previous_action)
        env = self._robot._env
        actions = np.zeros((HORIZON, 4), np.float32)
        if self._is_expert:
            actions[0] = env.action_space.encode(scripted_expert(env))
        return ActionChunk(actions=actions, dt_s=0.1, observed_at_s=0.0, w_version=self._version)


@pytest.fixture(scope="module")
def robot() -> Iterator[SimulatedRobot]:
    with SimulatedRobot(draw_embodiment("both", seed=0, index=0), image_size=16) as robot:
        yield robot


def test_a_policy_that_can_reaches_and_one_that_stays_does_not(robot: SimulatedRobot) -> None:
    starts = [1, 2, 3]
    expert: Any = FakeClient(robot, is_expert=True)
    still: Any = FakeClient(robot, is_expert=False)
    reached = measure(expert, robot, starts, execute=1, version=0)
    stayed = measure(still, robot, starts, execute=None, version=0)
    assert [item.is_success for item in reached] == [True] * 3
    assert [item.is_success for item in stayed] == [False] * 3
    assert all(item.steps < 50 for item in reached), "an episode ends with its success"
    assert all(item.steps == 50 for item in stayed)
    assert [item.start for item in reached] == starts
    assert reached[0].instruction.startswith("touch the ")


def test_execute_says_how_much_of_a_chunk_is_used(robot: SimulatedRobot) -> None:
    calls = []
    for execute in (1, 2, None):
        client: Any = FakeClient(robot, is_expert=False)
        run_episode(client, robot, 1, execute=execute, version=0)
        calls.append(len(client.seeds))
    assert calls == [50, 25, 13]


def test_each_call_says_the_last_command_and_the_first_the_pose_that_is_held() -> None:
    embodiment = draw_embodiment("action", seed=0, index=0, family="tool_absolute")
    with SimulatedRobot(embodiment, image_size=16) as absolute:
        client: Any = FakeClient(absolute, is_expert=True)
        absolute.begin(1)
        held = absolute._env.held_action().astype(np.float32)
        run_episode(client, absolute, 1, execute=1, version=0)
        assert absolute.spec["targets"] == ["tool_x", "tool_y", "tool_z"]
        # The expert reaches: the last commands lead there step by step, from where it stood.
        np.testing.assert_array_equal(client.previous[0], held)
        steps = np.diff([row[:3] for row in client.previous], axis=0)
        assert 0.02 < np.linalg.norm(steps, axis=1).max() < 0.04
        absolute.begin(1)
        np.testing.assert_array_equal(absolute.last_action, held)
        absolute.hold()
        np.testing.assert_allclose(absolute.last_action, held, atol=1e-6)


def test_noise_depends_on_start_state_and_call_only(robot: SimulatedRobot) -> None:
    seeds = []
    for start in (1, 1, 2):
        client: Any = FakeClient(robot, is_expert=False)
        run_episode(client, robot, start, execute=None, version=0)
        seeds.append(client.seeds)
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])
    assert len(set(seeds[0])) == len(seeds[0])


def test_a_chunk_of_another_w_is_not_counted(robot: SimulatedRobot) -> None:
    client: Any = FakeClient(robot, is_expert=False, version=1)
    with pytest.raises(WrongVersion, match="measuring W version 0, but version 1"):
        run_episode(client, robot, 1, execute=None, version=0)
