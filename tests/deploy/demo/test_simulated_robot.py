"""The simulated arm as a robot of the client library."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.play_file import PlayFile
from deploy.demo.embodiments import draw_embodiment
from deploy.demo.record import record
from deploy.demo.rollouts import film
from deploy.demo.simulated_robot import SimulatedRobot


@pytest.fixture(scope="module")
def robot() -> Iterator[SimulatedRobot]:
    with SimulatedRobot(draw_embodiment("both", seed=0, index=0), image_size=16) as robot:
        yield robot


def test_the_same_start_number_is_the_same_start_state(robot: SimulatedRobot) -> None:
    robot.begin(5)
    first = robot.observe()
    robot.apply(np.zeros(4, np.float32))
    robot.begin(5)
    again = robot.observe()
    np.testing.assert_array_equal(first["state"], again["state"])
    np.testing.assert_array_equal(first["images"]["front"], again["images"]["front"])
    assert first["instruction"] == again["instruction"]
    robot.begin(6)
    assert not np.array_equal(first["state"], robot.observe()["state"])


def test_it_declares_itself_without_geometry(robot: SimulatedRobot) -> None:
    spec = robot.spec
    assert spec["name"] == robot.name
    assert [len(spec["state"]), len(spec["action"]), spec["rate_hz"]] == [8, 4, 10.0]
    assert spec["cameras"] == [{"name": "front", "height": 16, "width": 16}]
    limits = {(item["low"], item["high"]) for item in spec["action"][:3]}
    assert limits == {(-0.04, 0.04)}, "the declared limits give no hint of rotation or scale"


def test_holding_keeps_the_tool_in_place(robot: SimulatedRobot) -> None:
    robot.begin(7)
    for _ in range(3):
        robot.hold()
    settled = np.asarray(robot.observe()["state"])
    for _ in range(5):
        robot.hold()
    np.testing.assert_allclose(robot.observe()["state"], settled, atol=0.01)


def test_an_episode_is_over_after_its_step_limit(robot: SimulatedRobot) -> None:
    robot.begin(8)
    steps = 0
    while not robot.is_over:
        robot.hold()
        steps += 1
    assert steps == 50
    assert not robot.is_success


def test_play_is_repeatable_within_limits_and_moves(robot: SimulatedRobot, tmp_path: Path) -> None:
    one, two = (record(robot, 20, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.action, two.action)
    np.testing.assert_array_equal(one.images["front"], two.images["front"])
    assert np.all(np.abs(one.action[:, :3]) <= 0.04 + 1e-6)
    assert np.ptp(one.state[:, :7], axis=0).max() > 0.02
    assert np.all(np.diff(one.t_ns) == 100_000_000)
    one.write(tmp_path / "play.npz")
    assert len(PlayFile.read(tmp_path / "play.npz")) == 20


def test_a_film_has_the_first_and_the_last_frame() -> None:
    frames = [np.full((2, 2, 3), i, np.uint8) for i in range(51)]
    shown = film(frames)[:, 0, 0, 0].tolist()
    assert (len(shown), shown[0], shown[-1]) == (8, 0, 50)
    assert len(film(frames[:3])) == 3
