"""The scripted expert solves every task on every arm, in any action space."""

import numpy as np
import pytest

from selfalign.sim.action_spaces import MOTION_STEP_M, random_space
from selfalign.sim.env import SimEnv
from selfalign.sim.experts import scripted_expert, towards

EPISODES = 4


def solve(env: SimEnv, task: str, seed: int) -> int:
    """Steps until success, 0 for failure. Commands only, nothing is rendered."""
    env.reset(seed=seed, options={"task": task})
    for step in range(1, env.task.step_limit + 1):
        if env.execute(scripted_expert(env)):
            return step
    return 0


@pytest.mark.parametrize("task", ["reach", "push", "lift"])
def test_expert_succeeds(env: SimEnv, task: str) -> None:
    steps = [solve(env, task, seed) for seed in range(EPISODES)]
    assert all(steps), f"failed episodes of {task}: {steps}"


def test_reach_takes_about_ten_steps(panda: SimEnv) -> None:
    steps = [solve(panda, "reach", seed) for seed in range(12)]
    assert 5 <= np.mean(steps) <= 15
    assert max(steps) <= 20


@pytest.mark.parametrize("family", ["tool_rotated", "tool_absolute", "joint_permuted"])
def test_expert_succeeds_through_an_action_space(panda: SimEnv, family: str) -> None:
    panda.action_space = random_space(np.random.default_rng(0), family, panda.arm)
    panda.reset(seed=2, options={"task": "reach"})
    for _ in range(panda.task.step_limit):
        action = panda.action_space.encode(scripted_expert(panda))
        terminated = panda.step(action)[2]
        if terminated:
            break
    assert terminated


def test_lifted_cube_stays_in_the_gripper(panda: SimEnv) -> None:
    assert solve(panda, "lift", 3)
    held = panda.cube(panda.colour) - panda.measure().tool
    for _ in range(10):
        panda.execute(panda.command(panda.measure().tool, 0.0))
    np.testing.assert_allclose(panda.cube(panda.colour) - panda.measure().tool, held, atol=0.01)


def test_steps_towards_a_goal_are_limited() -> None:
    far = towards(np.zeros(3), np.array([1.0, 0.0, 0.0]))
    assert np.linalg.norm(far) == pytest.approx(MOTION_STEP_M)
    near = towards(np.zeros(3), np.array([0.01, 0.0, 0.0]))
    np.testing.assert_allclose(near, [0.01, 0.0, 0.0])
