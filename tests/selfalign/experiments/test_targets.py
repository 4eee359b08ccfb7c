"""A simulated robot with absolute targets: roll-outs, labels and alignment are its delta twin's."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from selfalign.align.aligner import Aligner
from selfalign.align.robot_io import RobotIO
from selfalign.data.observation import Observation
from selfalign.experiments.adapt import encode
from selfalign.experiments.analytic import Disguise
from selfalign.experiments.bench import Bench
from selfalign.experiments.cells import cells_of
from selfalign.experiments.online import OnlineW
from selfalign.experiments.oracle import demonstrate
from selfalign.experiments.robots import UnseenRobot, draw_robot
from selfalign.experiments.rollouts import Episode, episodes, roll_out
from selfalign.experiments.settings import OracleConfig, Settings
from selfalign.experiments.stage import Stage
from selfalign.model.checkpoint import load_policy, shipped_model_dir
from selfalign.model.policy import Policy
from selfalign.sim.action_spaces import TOOL_STEP_M, ToolAbsolute, ToolDelta
from selfalign.sim.experts import scripted_expert
from selfalign.sim.motion import Command
from tests.fakes.experiment import QUICK, small_policy, small_stage

EXPERT = OracleConfig(demonstrations=1, steps=2, batch_size=4)


def absolute_robot() -> UnseenRobot:
    (cell,) = cells_of("action", family="tool_absolute")
    return draw_robot(cell, "validation", seed=0, index=0, episodes=4)


def bench_of(stage: Stage, policy: Policy, settings: Settings, robot: UnseenRobot) -> Bench:
    (cell,) = cells_of("action", family="tool_absolute")
    stage.set_up(robot)
    return Bench(policy, stage, cell, robot, 0, settings)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    policy = small_policy()
    with small_stage(policy, size=2) as stage:
        yield bench_of(stage, policy, QUICK, absolute_robot())


def test_play_is_encoded_by_its_changes(bench: Bench) -> None:
    play = bench.play(4.0)
    spec = bench.io.spec
    assert spec.targets == ("tool_x", "tool_y", "tool_z")
    actions = encode(bench.io, play).train.actions[..., :3]
    # Play takes steps of at most 28 mm from where the arm is.
    assert 0.1 < float(actions.abs().max()) < 1
    steps = np.diff(play.action[:, :3], axis=0) / TOOL_STEP_M
    for row in actions[:, 0].numpy():
        assert np.abs(steps - row).max(-1).min() < 1e-4


def test_an_episode_goes_on_from_the_pose_it_holds_and_then_from_its_commands(
    bench: Bench,
) -> None:
    env, w = bench.stage.env(), bench.policy.base_w().map(lambda tensor: tensor + 0.05)
    commands: list[Command] = []
    execute = env.execute

    def noted(command: Command) -> bool:
        commands.append(command)
        return execute(command)

    env.execute = noted  # type: ignore[method-assign]
    try:
        roll_out(bench.io, bench.stage, episodes([("w", w)], [7]))
    finally:
        env.execute = execute  # type: ignore[method-assign]
    place = commands[0].measured.tool
    assert len(commands) > 8
    for command in commands:
        # The largest step on all three axes; the workspace only takes from it.
        assert np.linalg.norm(command.tool_target - place) <= 3**0.5 * TOOL_STEP_M + 1e-6
        place = command.tool_target


def test_what_an_episode_learns_from_are_its_own_transitions(bench: Bench) -> None:
    """Gathered chunk by chunk, they are those of the whole episode as play, but the first one."""
    play, policy = bench.play(1.0), bench.policy
    online = OnlineW(bench.io, policy.base_w(), Aligner(policy), steps=1, seed=0)
    seen = [
        Observation({n: x[i] for n, x in play.images.items()}, play.state[i], "")
        for i in range(len(play))
    ]
    for begin in (0, 4):
        for step in range(begin, begin + 4):
            online.add(seen[step], play.action[step])
        online.learn(seen[begin + 4])
    whole = bench.io.transitions(play, np.arange(1, 9 - policy.config.stride))
    gathered = online._transitions
    assert gathered is not None
    torch.testing.assert_close(gathered.actions, whole.actions)
    torch.testing.assert_close(gathered.state, whole.state)
    torch.testing.assert_close(gathered.now.features, whole.now.features, rtol=1e-4, atol=1e-4)
    assert Episode("online", policy.base_w(), 0, online).current_w is online.w


def test_demonstrations_are_labelled_by_what_the_expert_wants_from_where_it_is(
    bench: Bench,
) -> None:
    env = bench.stage.env()
    chunks = demonstrate(env, bench.io, EXPERT, count=1, seed=0)
    env.reset(seed=int(np.random.default_rng(0).integers(2**31)))
    wanted = env.action_space.encode(scripted_expert(env))
    expected = (wanted - env.held_action())[:3] / TOOL_STEP_M
    np.testing.assert_allclose(chunks.actions[0, 0, :3], expected, atol=1e-4)
    assert chunks.actions[..., :3].abs().max() < 1


def test_a_robot_in_disguise_has_no_targets(bench: Bench) -> None:
    env = bench.stage.env()
    spec = Disguise.of(bench.robot).spec(env)
    assert (spec.targets, spec.max_step) == ((), None)
    RobotIO(bench.policy, spec)


def aligned_successes(robot: UnseenRobot, labels: tuple[str, ...]) -> dict[str, int]:
    """How many episodes succeed with the shipped model, by what its W is."""
    policy = load_policy(shipped_model_dir())
    with Stage("reach", size=4, image_size=policy.config.vision.image_size) as stage:
        bench = bench_of(stage, policy, Settings(episodes=4, robots=1, play_seconds=9.0), robot)
        w = {"base": policy.base_w(), "aligned": bench.alignment.candidate}
        wanted = episodes([(label, w[label]) for label in labels], robot.starts)
        return {name: sum(done) for name, done in roll_out(bench.io, stage, wanted).items()}


def test_the_shipped_model_aligns_to_targets() -> None:
    assert aligned_successes(absolute_robot(), ("aligned",))["aligned"] >= 3


@pytest.mark.slow
def test_it_gets_as_far_as_with_the_deltas_of_the_twin() -> None:
    robot = absolute_robot()
    assert isinstance(robot.space, ToolAbsolute)
    twin = replace(robot, space=ToolDelta(robot.space.rotation))
    ours, deltas = (aligned_successes(each, ("base", "aligned")) for each in (robot, twin))
    assert ours["base"] <= 1
    assert deltas["base"] <= 1
    assert abs(ours["aligned"] - deltas["aligned"]) <= 1
