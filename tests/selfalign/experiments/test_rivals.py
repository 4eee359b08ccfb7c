"""Rivals of alignment that act otherwise than with a W of the same policy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from selfalign.align.aligner import Aligner
from selfalign.data.observation import Observation
from selfalign.experiments.adapt import encode, fit
from selfalign.experiments.analytic import Disguise, plain_robot
from selfalign.experiments.bench import LIBRARY_SIZE, Bench
from selfalign.experiments.methods import UnknownMethod, candidate, check_methods
from selfalign.experiments.online import OnlineW
from selfalign.experiments.rollouts import Episode, roll_out
from selfalign.experiments.settings import digest
from selfalign.experiments.stage import Stage
from selfalign.model.checkpoint import save_policy
from selfalign.model.policy import Policy
from selfalign.sim.action_spaces import ToolDelta
from selfalign.sim.cameras import CameraPose, project
from selfalign.sim.env import CUBE_HIGH, CUBE_LOW
from selfalign.sim.scene import CUBE_EDGE_M
from tests.fakes.experiment import QUICK, small_bench, small_policy, small_stage
from tests.fakes.models import random_policy

SETTINGS = QUICK.model_copy(update={"play_seconds": 2.0, "early_steps": (1, 2, 4)})


@pytest.fixture(scope="module")
def policy() -> Policy:
    return small_policy()


@pytest.fixture(scope="module")
def stage(policy: Policy) -> Iterator[Stage]:
    with small_stage(policy, size=1) as stage:
        yield stage


@pytest.fixture
def bench(stage: Stage, policy: Policy) -> Bench:
    return small_bench(stage, policy, SETTINGS)


def test_a_closed_gate_leaves_no_way_for_w(bench: Bench, policy: Policy) -> None:
    found = candidate(bench, "gate_closed")
    assert found.policy is not None
    gates = [p for name, p in found.policy.named_parameters() if name.endswith(".ttt.gate")]
    assert gates
    assert not any(gate.any() for gate in gates)
    assert all(p.any() for name, p in policy.named_parameters() if name.endswith(".ttt.gate"))


def test_behaviour_cloning_acts_with_another_model(
    bench: Bench, tmp_path: Path, policy: Policy
) -> None:
    save_policy(random_policy(seed=3), tmp_path)
    bench.settings = SETTINGS.model_copy(update={"bc_model": tmp_path})
    found = candidate(bench, "bc")
    assert found.policy is not None
    assert found.policy.base_sha256 != policy.base_sha256
    assert candidate(bench, "bc").policy is found.policy
    with pytest.raises(UnknownMethod, match="--bc-model"):
        check_methods(["bc"])


def test_behaviour_cloning_counts_as_what_it_is_not_as_where_it_lies(
    bench: Bench, tmp_path: Path
) -> None:
    policies = (("a", 3), ("b", 3), ("c", 4))
    for name, seed in policies:
        save_policy(random_policy(seed=seed), tmp_path / name)
    a, b, c = (
        digest(tmp_path / "a", bench.cell, SETTINGS.model_copy(update={"bc_model": tmp_path / n}))
        for n, _ in policies
    )
    assert a == b != c


def test_early_stop_takes_the_steps_that_play_kept_back_asks_for(bench: Bench) -> None:
    found = candidate(bench, "early_stop")
    choice = SETTINGS.early_steps
    assert found.steps in choice
    aligner = Aligner(bench.policy, SETTINGS.alignment)
    kept = fit(aligner, bench.encoded.train, steps=max(choice), keep=choice)
    assert torch.equal(found.w.W1, kept[found.steps].W1)
    held_out = bench.encoded.held_out
    lost = {n: float(aligner.losses(bench.policy, held_out, kept[n]).total) for n in choice}
    assert lost[found.steps] == min(lost.values())
    assert len(set(lost.values())) > 1


def test_a_global_w_learns_from_the_play_of_all(bench: Bench, policy: Policy) -> None:
    own = encode(bench.io, bench.play(2.0)).train
    other = own.index(torch.arange(len(own)).flip(0)[:4])
    bench.library.play[bench.cell.name, 2.0] = [other] * LIBRARY_SIZE
    shared = candidate(bench, "global_2").w
    bench.library.play[bench.cell.name, 2.0] = [own] * LIBRARY_SIZE
    assert not torch.equal(shared.W1, candidate(bench, "global_2").w.W1)
    assert not torch.equal(shared.W1, policy.base_w().W1)


def test_strangers_play_is_made_once_and_this_robot_stays_set_up(bench: Bench) -> None:
    made = bench.strange_play(1.0)
    assert len(made) == LIBRARY_SIZE
    assert not torch.equal(made[0].actions[:4], made[1].actions[:4])
    assert bench.strange_play(1.0) is made
    assert bench.stage.env().action_space is bench.robot.space


def test_an_episode_that_learns_goes_its_own_way_from_w0(bench: Bench, policy: Policy) -> None:
    def learner(steps: int) -> OnlineW:
        aligner = Aligner(policy, SETTINGS.alignment)
        return OnlineW(bench.io, policy.base_w(), aligner, steps=steps, seed=1)

    online = learner(2)
    roll_out(bench.io, bench.stage, [Episode("online", policy.base_w(), 5, online)])
    assert not torch.equal(online.w.W1, policy.base_w().W1)
    again = learner(2)
    roll_out(bench.io, bench.stage, [Episode("online", policy.base_w(), 5, again)])
    assert torch.equal(online.w.W1, again.w.W1)


def test_an_episode_may_go_on_from_the_aligned_w(bench: Bench) -> None:
    found, aligned = candidate(bench, "aligned_online"), candidate(bench, "aligned")
    assert found.is_online
    assert torch.equal(found.w.W1, aligned.w.W1)
    online = OnlineW(bench.io, found.w, Aligner(bench.policy), steps=1, seed=0)
    assert torch.equal(online.w.W1, aligned.w.W1)


def test_what_an_episode_learns_from_is_its_own_transitions(bench: Bench, policy: Policy) -> None:
    """Gathered chunk by chunk, they are those of the whole episode as play."""
    play = bench.play(1.0)
    aligner = Aligner(policy, SETTINGS.alignment)
    online = OnlineW(bench.io, policy.base_w(), aligner, steps=1, seed=0)
    seen = [
        Observation({n: x[i] for n, x in play.images.items()}, play.state[i], "")
        for i in range(len(play))
    ]
    for begin in (0, 4):
        for step in range(begin, begin + 4):
            online.add(seen[step], play.action[step])
        online.learn(seen[begin + 4])
    stride = policy.config.stride
    whole = bench.io.transitions(play, np.arange(8 - stride + 1))
    gathered = online._transitions
    assert gathered is not None
    assert len(gathered) == len(whole)
    assert torch.equal(gathered.actions, whole.actions)
    assert torch.allclose(gathered.feature_change, whole.feature_change, atol=1e-5)


def test_a_calculated_picture_has_the_cubes_where_the_plain_camera_would() -> None:
    camera = CameraPose(azimuth_deg=35.0, elevation_deg=50.0, distance_m=1.2)
    disguise = Disguise(camera, CameraPose(), ToolDelta())
    spots = np.array([[*CUBE_LOW, CUBE_EDGE_M / 2], [*CUBE_HIGH, CUBE_EDGE_M / 2]])
    for spot in spots:
        image = np.zeros((96, 96, 3), np.uint8)
        _paint(image, project(camera, spot))
        found = np.argwhere(disguise.warp(image)[..., 0] == 255).mean(0)[::-1]
        wanted = project(CameraPose(), spot)[:2] * 96 - 0.5
        assert found == pytest.approx(wanted, abs=1.5)


def test_the_plain_robot_in_disguise_is_itself(bench: Bench) -> None:
    robot = plain_robot()
    bench.stage.set_up(robot)
    env, disguise = bench.stage.env(), Disguise.of(robot)
    seen = env.observe()
    assert disguise.see(seen) is seen
    assert disguise.spec(env) == env.spec
    action = np.array([0.01, -0.02, 0.005, 0.04])
    plain = env.action_space.decode(action, env.measure(), env.kinematics)
    assert disguise.command(action, env).joint_target == pytest.approx(plain.joint_target)


def test_a_robot_in_disguise_moves_as_the_plain_one_would(bench: Bench) -> None:
    """Whatever its own numbers mean: its frame is turned, here, and nothing reaches a limit."""
    bench.stage.set_up(bench.robot)
    env, disguise = bench.stage.env(), Disguise.of(bench.robot)
    assert not isinstance(bench.robot.space, ToolDelta) or bench.robot.space.scale != 1.0
    action = np.array([0.01, -0.02, 0.005, 0.04])
    plain = ToolDelta().decode(action, env.measure(), env.kinematics)
    found = disguise.command(action, env)
    assert found.tool_target == pytest.approx(plain.tool_target, abs=1e-6)
    raw = env.action_space.decode(action, env.measure(), env.kinematics)
    assert raw.tool_target != pytest.approx(plain.tool_target, abs=1e-3)


def test_the_w_of_the_plain_robot_is_made_once(bench: Bench) -> None:
    first = candidate(bench, "analytic")
    assert first.disguise is not None
    assert first.disguise.camera == bench.robot.camera
    assert candidate(bench, "analytic").w is first.w
    assert bench.stage.env().cameras["front"] == bench.robot.camera


def _paint(image: np.ndarray, point: np.ndarray) -> None:
    column, row = (point[:2] * len(image) - 0.5).round().astype(int)
    image[row - 2 : row + 3, column - 2 : column + 3] = 255
