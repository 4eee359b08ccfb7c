"""Cells and the robots drawn for them."""

import numpy as np
import pytest

from selfalign.experiments.cells import SCENARIOS, Cell, UnknownCell, cells_of, draw_camera
from selfalign.experiments.robots import draw_robot
from selfalign.sim.action_spaces import ToolDelta
from selfalign.sim.cameras import (
    HELD_OUT_AZIMUTH_DEG,
    CameraPose,
    CameraSector,
    random_camera,
    without_held_out,
)
from selfalign.sim.tasks import UnknownTask

TRAINED = CameraSector()


def poses(placement: str, count: int = 60) -> list[CameraPose]:
    rng = np.random.default_rng(0)
    return [draw_camera(rng, placement) for _ in range(count)]


def test_cells_have_names_of_their_own() -> None:
    names = [cell.name for scenario in SCENARIOS for cell in cells_of(scenario)]
    assert len(set(names)) == len(names)
    assert {"camera/edge/reach", "action/tool_yawed/reach", "robot/ur5e/reach"} <= set(names)


def test_a_scenario_changes_only_what_it_says() -> None:
    for cell in cells_of("action"):
        assert (cell.placement, cell.arm) == ("front", "panda")
    for cell in cells_of("camera"):
        assert (cell.family, cell.arm) == ("tool_canonical", "panda")
    assert cells_of("robot") == [Cell("robot", "front", "tool_canonical", "ur5e", "reach")]
    assert cells_of("all", task="lift") == [Cell("all", "unseen", "tool_yawed", "ur5e", "lift")]


def test_one_family_of_a_scenario() -> None:
    assert [cell.family for cell in cells_of("action", family="joint_permuted")] == [
        "joint_permuted"
    ]
    assert [cell.placement for cell in cells_of("camera", family="held_out")] == ["held_out"]


def test_unknown_names_are_told_with_the_known_ones() -> None:
    with pytest.raises(UnknownCell, match=r"'edges'.*unseen, held_out, edge, outside"):
        cells_of("camera", family="edges")
    with pytest.raises(UnknownCell, match=r"'edge'.*tool_yawed"):
        cells_of("both", family="edge")
    with pytest.raises(UnknownTask, match="'stack'"):
        cells_of("both", task="stack")


def test_unseen_cameras_are_within_the_trained_ranges() -> None:
    assert all(-60 <= pose.azimuth_deg <= 60 for pose in poses("unseen"))


def test_the_held_out_sector_is_wide_and_inside_what_is_trained() -> None:
    low, high = HELD_OUT_AZIMUTH_DEG
    assert high - low >= 40
    assert TRAINED.azimuth_deg[0] < low
    assert high < TRAINED.azimuth_deg[1]
    assert all(low <= pose.azimuth_deg <= high for pose in poses("held_out"))


def test_training_can_leave_the_held_out_sector_out() -> None:
    rng = np.random.default_rng(0)
    drawn = [random_camera(rng, without_held_out()).azimuth_deg for _ in range(200)]
    low, high = HELD_OUT_AZIMUTH_DEG
    assert not any(low <= azimuth <= high for azimuth in drawn)
    assert min(drawn) < low < high < max(drawn)


def test_cameras_beyond_the_edge_are_30_degrees_away_on_both_sides() -> None:
    azimuths = [pose.azimuth_deg for pose in poses("edge")]
    assert all(abs(azimuth) >= TRAINED.azimuth_deg[1] + 30 for azimuth in azimuths)
    assert min(azimuths) < 0 < max(azimuths)


def test_cameras_outside_leave_one_trained_range_each() -> None:
    def left(pose: CameraPose) -> int:
        fields = ("azimuth_deg", "elevation_deg", "distance_m", "fovy_deg")
        ranges = {name: getattr(TRAINED, name) for name in fields}
        return sum(not low <= getattr(pose, name) <= high for name, (low, high) in ranges.items())

    assert [left(pose) for pose in poses("outside")] == [1] * 60


def test_robots_are_drawn_again_from_their_seeds() -> None:
    (cell,) = cells_of("both")
    one = draw_robot(cell, "test", seed=3, index=1, episodes=4)
    again = draw_robot(cell, "test", seed=3, index=1, episodes=4)
    assert one.camera == again.camera
    assert one.starts == again.starts
    assert np.array_equal(one.space.rotation, again.space.rotation)


@pytest.mark.parametrize(
    "other", [("validation", 3, 1), ("test", 4, 1), ("test", 3, 2)], ids=["split", "seed", "index"]
)
def test_split_seed_and_index_each_draw_another_robot(other: tuple[str, int, int]) -> None:
    (cell,) = cells_of("both")
    one = draw_robot(cell, "test", seed=3, index=1, episodes=4)
    split, seed, index = other
    two = draw_robot(cell, split, seed=seed, index=index, episodes=4)
    assert one.camera != two.camera
    assert not set(one.starts) & set(two.starts)
    assert one.play_seed != two.play_seed


def test_cells_share_cameras_play_and_start_states() -> None:
    both, camera = cells_of("both")[0], cells_of("camera", family="unseen")[0]
    one = draw_robot(both, "test", seed=0, index=0, episodes=3)
    two = draw_robot(camera, "test", seed=0, index=0, episodes=5)
    assert one.camera == two.camera
    assert two.starts[:3] == one.starts
    assert one.play_seed == two.play_seed
    assert two.space == ToolDelta() or np.array_equal(two.space.rotation, np.eye(3))
