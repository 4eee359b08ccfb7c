"""The whole loop, for real and small: play, align, swap, act, roll back."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from client import (
    Backoff,
    Continuation,
    ControlLoop,
    Endpoint,
    OperatorClient,
    RealTimeChunking,
    RobotClient,
    ServerProblem,
)
from client.cli import main
from deploy.demo.embodiments import draw_embodiment
from deploy.demo.rollouts import WrongVersion, run_episode
from deploy.demo.server_process import ServerProcess
from deploy.demo.simulated_robot import SimulatedRobot
from server.wire.operator import AlignRequest, Budget

PLAY_STEPS = 64


class Noted:
    """A robot that keeps the commands of its loop."""

    def __init__(self, robot: SimulatedRobot) -> None:
        self.observe, self.hold, self._apply = robot.observe, robot.hold, robot.apply
        self.commands: list[NDArray[np.float32]] = []

    def apply(self, action: NDArray[np.float32]) -> None:
        self.commands.append(action)
        self._apply(action)


@pytest.fixture(scope="module")
def endpoint(server_process: ServerProcess) -> Endpoint:
    return Endpoint(server_process.url, timeout_s=60, retry=Backoff(give_up_after_s=60))


@pytest.fixture(scope="module")
def robot() -> Iterator[SimulatedRobot]:
    with SimulatedRobot(draw_embodiment("both", seed=1, index=0), image_size=32) as robot:
        yield robot


@pytest.fixture(scope="module")
def operator(endpoint: Endpoint, robot: SimulatedRobot) -> Iterator[OperatorClient]:
    with OperatorClient(endpoint) as operator:
        operator.add_robot(robot.spec)
        yield operator


def test_play_align_swap_act_and_roll_back(
    endpoint: Endpoint, robot: SimulatedRobot, operator: OperatorClient
) -> None:
    with RobotClient(endpoint, robot=robot.name) as client:
        robot.begin(1)
        observation = robot.observe()
        before = client.act(observation, seed=1)
        assert before.w_version == 0

        with client.play(meta={"by": "test"}) as recorder:
            for i, (seen, action) in enumerate(robot.play(PLAY_STEPS, seed=0)):
                recorder.step(seen, action, t_ns=i * 100_000_000)
        assert recorder.episodes[0].is_sealed
        assert recorder.episodes[0].durable == PLAY_STEPS
        recorded = {item.id: item for item in operator.episodes().episodes}
        assert recorded[recorder.episodes[0].id].robot == robot.name

        request = AlignRequest(
            robot=robot.name, budget=Budget(steps=5, seconds=None), promotion="manual"
        )
        session = operator.align.start(request)
        kinds = [event.event for event in operator.align.watch(session.id)]
        assert kinds[-1] == "end"
        assert "progress" in kinds
        ended = operator.align.get(session.id)
        assert ended.state in {"succeeded", "rejected"}, ended.error
        assert ended.candidate is not None
        assert ended.step == 5

        # A random model is not expected to pass gates; what is tested here is the way of W.
        data = operator.w.download(ended.candidate, robot=robot.name)
        version = operator.w.upload(data, robot=robot.name, activate=True).version
        after = client.act(observation, seed=1)
        assert after.w_version == version
        assert after.w_sha256 != before.w_sha256
        assert after.base_sha256 == before.base_sha256
        assert not np.array_equal(after.actions, before.actions), "W must matter"

        assert operator.w.rollback(robot=robot.name).active == 0
        again = client.act(observation, seed=1)
        np.testing.assert_array_equal(again.actions, before.actions)


def test_both_transports_give_the_same_chunk(
    endpoint: Endpoint, robot: SimulatedRobot, operator: OperatorClient
) -> None:
    robot.begin(2)
    chunks = []
    for transport in ("websocket", "http"):
        with RobotClient(endpoint, robot=robot.name, transport=transport) as client:  # type: ignore[arg-type]
            chunks.append(client.act(robot.observe(), seed=3, observed_at_s=5.0, observation_seq=9))
    np.testing.assert_array_equal(chunks[0].actions, chunks[1].actions)
    assert [(chunk.observed_at_s, chunk.observation_seq) for chunk in chunks] == [(5.0, 9)] * 2


def test_an_episode_runs_to_its_end_and_watches_the_version(
    endpoint: Endpoint, robot: SimulatedRobot, operator: OperatorClient
) -> None:
    active = operator.w.list(robot=robot.name).active
    with RobotClient(endpoint, robot=robot.name) as client:
        one, two = (run_episode(client, robot, 7, execute=None, version=active) for _ in range(2))
        assert one.steps > 0
        np.testing.assert_array_equal(one.film, two.film)
        with pytest.raises(WrongVersion):
            run_episode(client, robot, 7, execute=None, version=active + 1000)


@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_a_chunk_begins_with_what_it_has_to_continue(
    endpoint: Endpoint, robot: SimulatedRobot, operator: OperatorClient, transport: str
) -> None:
    robot.begin(5)
    with RobotClient(endpoint, robot=robot.name, transport=transport) as client:  # type: ignore[arg-type]
        old = client.act(robot.observe(), seed=1).actions
        robot.apply(old[0])
        plain = client.act(robot.observe(), seed=2).actions
        left = Continuation(old[1:], inference_delay=2)
        new = client.act(robot.observe(), seed=2, continuation=left).actions
    np.testing.assert_allclose(new[:2], old[1:3], rtol=1e-5, atol=1e-6)
    assert not np.allclose(plain[:2], old[1:3], atol=1e-4)
    assert not np.allclose(new[2], plain[2], atol=1e-6)


@pytest.mark.parametrize("real_time", [None, RealTimeChunking()])
def test_the_control_loop_drives_the_simulated_robot(
    endpoint: Endpoint,
    robot: SimulatedRobot,
    operator: OperatorClient,
    real_time: RealTimeChunking | None,
) -> None:
    robot.begin(3)
    with (
        RobotClient(endpoint, robot=robot.name) as client,
        ControlLoop(robot, client, rate_hz=10, real_time=real_time) as loop,
    ):
        loop.run(until=lambda: loop.statistics.replies >= 2 or loop.statistics.ticks >= 200)
        statistics = loop.statistics
    assert statistics.replies >= 2
    assert statistics.applied + statistics.held == statistics.ticks


def test_a_robot_with_targets_plays_aligns_and_is_driven_from_the_pose_it_holds(
    endpoint: Endpoint, operator: OperatorClient
) -> None:
    embodiment = draw_embodiment("action", seed=1, index=1, family="tool_absolute")
    with (
        SimulatedRobot(embodiment, image_size=32) as robot,
        RobotClient(endpoint, robot=robot.name) as client,
    ):
        operator.add_robot(robot.spec)
        with client.play() as recorder:
            for i, (seen, action) in enumerate(robot.play(PLAY_STEPS, seed=0)):
                recorder.step(seen, action, t_ns=i * 100_000_000)
        budget = Budget(steps=2, seconds=None)
        request = AlignRequest(robot=robot.name, budget=budget, promotion="manual")
        session = operator.align.start(request)
        assert [event.event for event in operator.align.watch(session.id)][-1] == "end"
        assert operator.align.get(session.id).state in {"succeeded", "rejected"}

        robot.begin(3)
        with pytest.raises(ServerProblem, match="the pose that the robot holds"):
            client.act(robot.observe())
        held, noted = robot.last_action, Noted(robot)
        with ControlLoop(
            noted,
            client,
            rate_hz=10,
            real_time=RealTimeChunking(),
            held=held,
            max_step=robot.spec["max_step"],
        ) as loop:
            loop.run(until=lambda: loop.statistics.replies >= 3 or loop.statistics.ticks >= 200)
    assert loop.statistics.replies >= 3
    steps = np.diff([held, *noted.commands], axis=0)[:, :3]
    # Every command goes on from the one before, whichever chunk it comes from.
    assert 0 < np.abs(steps).max() <= 0.04 + 1e-6


def test_refusals_come_through_as_problems(
    endpoint: Endpoint, robot: SimulatedRobot, operator: OperatorClient
) -> None:
    robot.begin(4)
    observation = robot.observe()
    with RobotClient(endpoint, robot="nobody") as client:
        with pytest.raises(ServerProblem) as caught:
            client.act(observation)
        assert caught.value.code == "unknown-robot"
    with RobotClient(endpoint, robot=robot.name) as client:
        with pytest.raises(ServerProblem) as caught:
            client.act({**observation, "images": {}})
        assert caught.value.code == "bad-observation"
    with pytest.raises(ServerProblem) as caught:
        operator.align.start(AlignRequest(robot="nobody"))
    assert caught.value.code == "unknown-robot"
    with pytest.raises(ServerProblem) as caught:
        operator.w.activate(99, robot=robot.name)
    assert caught.value.code == "unknown-version"


def test_the_commands_work_against_a_real_server(
    endpoint: Endpoint,
    robot: SimulatedRobot,
    operator: OperatorClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at = ["--url", endpoint.url, "--robot", robot.name, "--timeout", "60"]
    for command in (["status"], ["act", "--blank"], ["w", "list"], ["align", "list"]):
        assert main([*command, *at]) == 0
    printed = capsys.readouterr()
    assert robot.name in printed.out
    assert printed.err == ""
