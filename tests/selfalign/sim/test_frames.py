"""Random frames for vision pretraining."""

import numpy as np

from selfalign.sim.cameras import CameraSector
from selfalign.sim.env import KEYPOINTS, SimEnv
from selfalign.sim.frames import random_frame


def test_frames_are_varied_and_labelled(env: SimEnv) -> None:
    rng = np.random.default_rng(0)
    frames = [random_frame(env, rng) for _ in range(12)]
    assert all(frame.image.shape == (96, 96, 3) for frame in frames)
    assert all(frame.keypoints.shape == (len(KEYPOINTS), 3) for frame in frames)
    points = np.stack([frame.keypoints for frame in frames])
    assert np.isfinite(points).all()
    assert (points[..., 2] > 0).all()
    assert points[:, 0, :2].std(axis=0).min() > 0.03
    cubes = points[:, -3:, :2]
    assert ((cubes > 0) & (cubes < 1)).mean() > 0.9


def test_frames_follow_their_sector_and_seed(panda: SimEnv) -> None:
    sector = CameraSector(azimuth_deg=(170.0, 175.0))
    first = random_frame(panda, np.random.default_rng(1), sector)
    assert 170 <= panda.cameras["front"].azimuth_deg <= 175
    again = random_frame(panda, np.random.default_rng(1), sector)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.keypoints, again.keypoints)
