"""The scene still looks as it did when the shipped model was trained.

The pictures are rendered by `render_look` below; other versions of MuJoCo or Mesa may differ in
single pixels along edges. If a change of the look is meant, the model must be trained again.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfalign.sim.cameras import CameraPose
from selfalign.sim.env import SimEnv
from tests.selfalign.sim.environments import open_environment

GOLDEN = Path(__file__).parent / "golden"
VIEWS = {
    "left": CameraPose(azimuth_deg=-50, elevation_deg=30, distance_m=1.2),
    "right": CameraPose(azimuth_deg=35, elevation_deg=50, distance_m=1.0),
}


def render_look(env: SimEnv, view: str) -> np.ndarray:
    env.set_cameras({"front": VIEWS[view]})
    env.place_cubes(np.random.default_rng(0))
    joints = env.kinematics.inverse(
        env.kinematics.posture, np.array([0.45, 0.1, 0.15]), iterations=60
    )
    env.place_arm(joints, 0.06)
    return env.render("front")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("arm", ["panda", "ur5e", "procedural-2"])
def test_scene_looks_as_it_did_in_training(arm: str, view: str) -> None:
    image = render_look(open_environment(arm), view).astype(int)
    golden = np.asarray(Image.open(GOLDEN / f"{arm}-{view}.png")).astype(int)
    differs = np.abs(image - golden).max(axis=-1) > 24
    assert differs.mean() < 0.02, f"{differs.sum()} of {differs.size} pixels differ"
