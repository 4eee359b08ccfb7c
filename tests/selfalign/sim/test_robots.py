"""Arms: names, seeds, and the assets they come from."""

import math
from pathlib import Path

import numpy as np
import pytest

import selfalign.sim
from selfalign.sim.robots import UnknownArm, make_arm
from selfalign.sim.scene import COLOUR_RGB

ASSETS = Path(selfalign.sim.__file__).parent / "assets"


@pytest.mark.parametrize("name", ["kuka", "procedural", "procedural-", "procedural-x", "Panda", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UnknownArm, match="panda, ur5e, procedural-<seed>"):
        make_arm(name)


def test_a_name_always_makes_the_same_arm() -> None:
    assert make_arm("procedural-12") == make_arm("procedural-12")
    assert make_arm("procedural-12") != make_arm("procedural-13")
    assert make_arm("procedural-12").name == "procedural-12"


def test_procedural_arms_have_five_to_seven_joints() -> None:
    counts = {make_arm(f"procedural-{seed}").joint_count for seed in range(20)}
    assert counts == {5, 6, 7}


def test_posture_lies_within_the_joint_limits() -> None:
    names = ["panda", "ur5e", *(f"procedural-{seed}" for seed in range(20))]
    for arm in map(make_arm, names):
        low, high = np.array(arm.joint_limits).T
        assert (low < arm.posture).all(), arm.name
        assert (high > arm.posture).all(), arm.name


def _colours(seed: int) -> list[np.ndarray]:
    arm = make_arm(f"procedural-{seed}")
    return [np.array(s.rgb) for link in arm.links for s in (*arm.base_shapes, *link.shapes)]


def test_procedural_arms_have_any_colour_but_that_of_a_cube() -> None:
    colours = [_colours(seed) for seed in range(60)]
    cubes = np.array(list(COLOUR_RGB.values()))
    for arm in colours:
        apart = np.linalg.norm(np.array(arm)[:, None] - cubes, axis=-1)
        assert ((apart > 0.4) & (np.array(arm) >= 0).all(1, keepdims=True)).all()
    # Some are grey all over, most are not.
    grey = [max(np.ptp(colour) for colour in arm) < 0.1 for arm in colours]
    assert 0.05 < np.mean(grey) < 0.4


def test_looks_do_not_change_how_an_arm_moves() -> None:
    # Numbers of these arms when all were grey: recordings of then still fit them.
    for seed, joints, posture, length in (
        (2, 7, (0.0791311, -0.7961836, -0.2036660), 1.3324899),
        (3, 5, (-0.0812132, 0.0231743, 2.0105632), 1.2549888),
    ):
        arm = make_arm(f"procedural-{seed}")
        assert arm.joint_count == joints
        assert arm.posture[:3] == pytest.approx(posture, abs=1e-6)
        assert sum(math.hypot(*link.position) for link in arm.links) == pytest.approx(length)


def test_assets_are_small_and_come_with_their_licences() -> None:
    files = {path.name: path.stat().st_size for path in ASSETS.iterdir()}
    assert sum(files.values()) < 2_000_000
    assert {"LICENSES.md", "panda-LICENSE.txt", "panda-NOTICE.txt", "ur5e-LICENSE.txt"} <= set(
        files
    )


def test_every_mesh_is_low_poly_and_whole() -> None:
    with np.load(ASSETS / "meshes.npz", allow_pickle=False) as bundle:
        for name in bundle.files:
            if name.endswith("/faces"):
                vertices = bundle[name.removesuffix("faces") + "vertices"]
                assert 12 <= len(bundle[name]) <= 200, name
                assert bundle[name].max() == len(vertices) - 1, name
