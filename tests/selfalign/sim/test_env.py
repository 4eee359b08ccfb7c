"""The environment: spec, observation, determinism, success, bad input."""

import hashlib

import numpy as np
import pytest

from selfalign.data.observation import check_observation
from selfalign.sim.action_spaces import FAMILIES, JointDelta, ToolDelta, random_space
from selfalign.sim.cameras import CameraPose
from selfalign.sim.env import (
    CUBE_HIGH,
    CUBE_LOW,
    CUBE_SPACING_M,
    KEYPOINTS,
    InvalidAction,
    SimEnv,
    UnknownScenePart,
)
from selfalign.sim.robots import make_arm
from selfalign.sim.scene import COLOURS
from selfalign.sim.tasks import TASKS, UnknownTask, get_task, reach_point


def test_observation_matches_the_declared_spec(env: SimEnv) -> None:
    rng = np.random.default_rng(0)
    for family in FAMILIES:
        env.action_space = random_space(rng, family, env.arm)
        observation, info = env.reset(seed=1)
        check_observation(observation, env.spec)
        assert len(env.spec.action) == len(env.action_space.dims(env.arm))
        assert info == {"success": False}
    low = np.array([dim.low for dim in env.spec.state])
    high = np.array([dim.high for dim in env.spec.state])
    assert (observation.state >= low).all()
    assert (observation.state <= high).all()


def test_several_cameras_are_declared_and_observed() -> None:
    poses = {"front": CameraPose(), "side": CameraPose(azimuth_deg=80)}
    with SimEnv(make_arm("procedural-1"), cameras=poses, image_size=48) as env:
        observation = env.observe()
        check_observation(observation, env.spec)
        assert list(observation.images) == ["front", "side"]
        assert (observation.images["front"] != observation.images["side"]).any()


def run_hash(seed: int) -> tuple[bytes, str]:
    with SimEnv(make_arm("panda")) as env:
        observation, _ = env.reset(seed=seed)
        rng = np.random.default_rng(7)
        for _ in range(8):
            action = np.append(rng.uniform(-0.03, 0.03, 3), rng.uniform(0, 0.09))
            observation = env.step(action)[0]
        image = observation.images["front"].tobytes()
        return env.data.qpos.tobytes(), hashlib.sha256(image).hexdigest()


def test_same_seed_gives_identical_motion_and_images() -> None:
    first, again, other = run_hash(5), run_hash(5), run_hash(6)
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_reset_without_seed_goes_on_with_the_stream(panda: SimEnv) -> None:
    panda.reset(seed=3)
    first = panda.data.qpos.copy()
    panda.reset()
    assert (panda.data.qpos != first).any()
    panda.reset(seed=3)
    np.testing.assert_array_equal(panda.data.qpos, first)


def test_cubes_lie_apart_inside_their_area(panda: SimEnv) -> None:
    for seed in range(40):
        panda.place_cubes(np.random.default_rng(seed))
        spots = np.stack([panda.cube(colour)[:2] for colour in COLOURS])
        assert (spots >= CUBE_LOW).all()
        assert (spots <= CUBE_HIGH).all()
        gaps = np.linalg.norm(spots[:, None] - spots[None], axis=-1) + np.eye(3)
        assert gaps.min() >= CUBE_SPACING_M


def test_every_colour_is_asked_for(panda: SimEnv) -> None:
    asked = set()
    for seed in range(20):
        panda.reset(seed=seed)
        asked.add(panda.instruction)
    assert asked == {f"touch the {colour} cube" for colour in COLOURS}


def test_one_step_nearly_reaches_its_target(env: SimEnv) -> None:
    for seed, shift in enumerate(([0.028, 0, 0], [0, -0.028, 0], [0.01, 0.01, -0.02])):
        env.reset(seed=seed)
        start = env.measure().tool
        env.step(np.array([*shift, 0.05]))
        moved = env.measure().tool - start
        assert np.linalg.norm(moved - shift) < 0.2 * np.linalg.norm(shift)


def test_gripper_follows_its_opening(panda: SimEnv) -> None:
    for opening in (0.09, 0.0, 0.045):
        for _ in range(3):
            panda.step(np.array([0.0, 0.0, 0.0, opening]))
        assert panda.measure().opening == pytest.approx(opening, abs=0.004)


def test_holding_still_keeps_still(env: SimEnv) -> None:
    start = env.measure().tool
    for _ in range(10):
        env.step(np.array([0.0, 0.0, 0.0, 0.05]))
    np.testing.assert_allclose(env.measure().tool, start, atol=3e-3)


def test_options_choose_task_and_colour(panda: SimEnv) -> None:
    observation, _ = panda.reset(seed=0, options={"task": "lift", "colour": "blue"})
    assert observation.instruction == "lift the blue cube"
    assert panda.reset(seed=1)[0].instruction.startswith("lift")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"task": "dance"}, UnknownTask),
        ({"colour": "mauve"}, UnknownScenePart),
        ({"weather": "rain"}, UnknownScenePart),
    ],
)
def test_bad_options_are_refused(panda: SimEnv, options: dict, error: type) -> None:
    with pytest.raises(error, match="known:"):
        panda.reset(options=options)


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((1, 4)), np.array([0, 0, np.nan, 0])])
def test_bad_actions_are_refused(panda: SimEnv, action: np.ndarray) -> None:
    with pytest.raises(InvalidAction, match=r"expected \[4\]"):
        panda.step(action)


def test_huge_actions_do_no_harm(env: SimEnv) -> None:
    env.action_space = JointDelta()
    for sign in (1.0, -1.0):
        action = np.full(env.arm.joint_count + 1, sign * 50.0)
        for _ in range(5):
            observation = env.step(action)[0]
    assert np.isfinite(observation.state).all()


def test_episode_ends_at_the_step_limit(panda: SimEnv) -> None:
    panda.reset(seed=0, options={"task": "lift"})
    still = np.array([0.0, 0.0, 0.0, 0.09])
    ends = [panda.step(still)[2:4] for _ in range(panda.task.step_limit)]
    assert ends[-1] == (False, True)
    assert not any(truncated for _, truncated in ends[:-1])


def test_reach_counts_only_near_the_named_cube(panda: SimEnv) -> None:
    panda.reset(seed=4, options={"colour": "green"})
    for colour in COLOURS:
        goal = reach_point(panda.cube(colour))
        joints = panda.kinematics.inverse(panda.measure().joints, goal, iterations=80)
        panda.place_arm(joints, 0.09)
        assert panda.is_success() == (colour == "green")
    far = reach_point(panda.cube("green")) + np.array([0.0, 0.0, 0.035])
    panda.place_arm(panda.kinematics.inverse(joints, far, iterations=80), 0.09)
    assert not panda.is_success()


def test_keypoints_name_real_places(env: SimEnv) -> None:
    points = dict(zip(KEYPOINTS, env.keypoints(), strict=True))
    np.testing.assert_allclose(points["tool_tip"], env.measure().tool, atol=1e-6)
    np.testing.assert_allclose(points["red_cube"], env.cube("red"))
    between = (points["left_finger_tip"] + points["right_finger_tip"]) / 2
    assert np.linalg.norm(between - points["tool_tip"]) < 0.01
    assert points["elbow"][2] > 0.2
    assert points["flange"][2] > points["tool_tip"][2] + 0.1


def test_close_may_be_called_twice() -> None:
    env = SimEnv(make_arm("procedural-1"), image_size=32)
    env.close()
    env.close()


def test_tool_delta_is_the_default_space(panda: SimEnv) -> None:
    assert isinstance(panda.action_space, ToolDelta)
    assert [dim.name for dim in panda.spec.action][:3] == ["delta_x", "delta_y", "delta_z"]


def test_tasks_have_instructions_and_limits() -> None:
    assert {task.step_limit for task in TASKS.values()} == {50, 80}
    assert get_task("push").instruction("red") == "push the red cube forward"
