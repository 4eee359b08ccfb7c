"""Arms: names, seeds, and the assets they come from."""

from pathlib import Path

import numpy as np
import pytest

import selfalign.sim
from selfalign.sim.robots import UnknownArm, make_arm

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


def test_procedural_arms_are_never_coloured_like_a_cube() -> None:
    for seed in range(20):
        arm = make_arm(f"procedural-{seed}")
        for shape in (*arm.base_shapes, *(s for link in arm.links for s in link.shapes)):
            assert max(shape.rgb) - min(shape.rgb) < 0.1


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
