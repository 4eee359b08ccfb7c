"""Play covers the workspace, is smooth and seeded, and asks for nothing the robot cannot know."""

import numpy as np

from selfalign.sim.action_spaces import MOTION_STEP_M, WORKSPACE_HIGH, WORKSPACE_LOW
from selfalign.sim.env import SimEnv
from selfalign.sim.play import RandomPlay
from selfalign.sim.scene import COLOURS


def play(env: SimEnv, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tool positions [n, 3], tool targets [n, 3], openings [n]."""
    env.reset(seed=seed)
    motion, rows = RandomPlay(np.random.default_rng(seed)), []
    for _ in range(steps):
        command = motion.command(env)
        rows.append((command.measured.tool, command.tool_target, float(command.opening_target)))
        env.execute(command)
    tools, targets, openings = zip(*rows, strict=True)
    return np.stack(tools), np.stack(targets), np.array(openings)


def test_play_visits_the_whole_workspace(panda: SimEnv) -> None:
    tools = np.concatenate([play(panda, seed, 250)[0] for seed in range(4)])
    cells = (3 * (tools - WORKSPACE_LOW) / (WORKSPACE_HIGH - WORKSPACE_LOW)).astype(int)
    visited = {tuple(cell) for cell in np.clip(cells, 0, 2)}
    # 27 cells; 1000 steps on fixed seeds visit nearly all of them.
    assert len(visited) >= 24


def test_play_opens_and_closes(panda: SimEnv) -> None:
    openings = play(panda, 0, 120)[2]
    assert openings.min() < 0.02
    assert openings.max() > 0.07
    assert 5 < (np.diff(openings) != 0).sum() < 60


def test_play_steps_are_within_limits_and_smooth(env: SimEnv) -> None:
    tools, targets, _ = play(env, 1, 80)
    steps = np.linalg.norm(targets - tools, axis=1)
    # A tool that overshot the workspace by a little is sent back in, on top of its step.
    assert steps.max() <= MOTION_STEP_M + 3e-4
    assert steps.mean() > 0.3 * MOTION_STEP_M
    directions = (targets - tools) / np.maximum(steps, 1e-9)[:, None]
    assert np.einsum("ij,ij->i", directions[1:], directions[:-1]).mean() > 0.3


def test_play_moves_cubes_now_and_then(panda: SimEnv) -> None:
    moved = 0
    for seed in range(6):
        panda.reset(seed=seed)
        start = np.stack([panda.cube(colour) for colour in COLOURS])
        motion = RandomPlay(np.random.default_rng(seed))
        for _ in range(64):
            panda.execute(motion.command(panda))
        end = np.stack([panda.cube(colour) for colour in COLOURS])
        moved += int((np.linalg.norm(end - start, axis=1) > 0.01).any())
    assert moved >= 1


def test_play_does_not_depend_on_the_cubes(panda: SimEnv) -> None:
    targets = []
    for seed in (1, 2):
        panda.reset(seed=5)
        panda.place_cubes(np.random.default_rng(seed))
        motion = RandomPlay(np.random.default_rng(0))
        targets.append(motion.command(panda).tool_target)
    np.testing.assert_array_equal(*targets)


def test_play_is_seeded(panda: SimEnv) -> None:
    first, second, other = play(panda, 3, 30), play(panda, 3, 30), play(panda, 4, 30)
    np.testing.assert_array_equal(first[0], second[0])
    assert (first[0] != other[0]).any()
