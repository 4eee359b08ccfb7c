"""Cameras: poses, projection against what is rendered, random sectors."""

import numpy as np
import pytest

from selfalign.sim.cameras import (
    CameraPose,
    CameraSector,
    SectorWithout,
    project,
    random_camera,
)
from selfalign.sim.env import SimEnv, UnknownScenePart
from selfalign.sim.scene import COLOURS


def test_look_at_is_the_middle_of_the_image() -> None:
    pose = CameraPose(azimuth_deg=70, elevation_deg=30, distance_m=1.2, look_at=(0.4, -0.1, 0.2))
    np.testing.assert_allclose(project(pose, np.array(pose.look_at)), [0.5, 0.5, 1.2], atol=1e-6)


def test_front_camera_mirrors_left_and_right() -> None:
    pose = CameraPose(azimuth_deg=0.0)
    left_of_robot = project(pose, np.array([0.46, 0.2, 0.14]))
    assert left_of_robot[0] > 0.6
    above = project(pose, np.array([0.46, 0.0, 0.3]))
    assert above[1] < 0.45


def test_roll_turns_the_image_about_its_centre() -> None:
    point = np.array([0.46, 0.2, 0.14])
    plain = project(CameraPose(), point)[:2] - 0.5
    rolled = project(CameraPose(roll_deg=90), point)[:2] - 0.5
    np.testing.assert_allclose(np.linalg.norm(rolled), np.linalg.norm(plain), atol=1e-6)
    assert abs(rolled[0]) < 1e-6


def test_points_behind_the_camera_have_negative_depth() -> None:
    pose = CameraPose(azimuth_deg=0, elevation_deg=0.0)
    assert project(pose, np.array([5.0, 0.0, 0.1]))[2] < 0


def cube_pixels(image: np.ndarray, colour: str) -> np.ndarray:
    own = image[..., COLOURS.index(colour)].astype(int)
    others = image.astype(int).sum(-1) - own
    return np.argwhere((own > 90) & (others < 0.6 * own))


@pytest.mark.parametrize("azimuth", [-100.0, -40.0, 0.0, 60.0, 150.0])
def test_rendered_cubes_lie_where_they_are_projected(panda: SimEnv, azimuth: float) -> None:
    panda.set_cameras({"front": CameraPose(azimuth_deg=azimuth, elevation_deg=50, roll_deg=10)})
    # Out of the way, so that the arm hides nothing.
    panda.place_arm(panda.kinematics.posture + np.array([2.5, 0, 0, 0, 0, 0, 0]), 0.05)
    image = panda.render("front")
    points = panda.project_keypoints("front")[-3:]
    for colour, (u, v, _) in zip(COLOURS, points, strict=True):
        rows, columns = cube_pixels(image, colour).mean(axis=0)
        assert abs((columns + 0.5) / 96 - u) < 0.02
        assert abs((rows + 0.5) / 96 - v) < 0.02


def test_random_cameras_stay_in_their_sector() -> None:
    rng = np.random.default_rng(0)
    sector = CameraSector(azimuth_deg=(10.0, 20.0), roll_deg=(-5.0, 5.0))
    poses = [random_camera(rng, sector) for _ in range(100)]
    assert all(10 <= pose.azimuth_deg <= 20 for pose in poses)
    assert any(pose.roll_deg > 2 for pose in poses)
    assert all(-60 <= random_camera(rng).azimuth_deg <= 60 for _ in range(100))


def test_gap_of_a_sector_is_left_out() -> None:
    rng = np.random.default_rng(0)
    sector = SectorWithout((40.0, 80.0))
    azimuths = np.array([random_camera(rng, sector).azimuth_deg for _ in range(400)])
    assert not ((azimuths >= 40) & (azimuths <= 80)).any()
    assert azimuths.min() < -150
    assert azimuths.max() > 150


def test_unknown_camera_is_named(panda: SimEnv) -> None:
    with pytest.raises(UnknownScenePart, match=r"'wrist'.*front"):
        panda.set_cameras({"wrist": CameraPose()})
