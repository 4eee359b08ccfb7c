"""One MuJoCo model: an arm with the gripper, a table, three cubes and the cameras.

The shipped model was trained on images of this scene: what changes its look moves it away from
what that model has seen (`tests/selfalign/sim/test_look.py` watches over it).

World frame: the base stands at the origin on the table top (z = 0), x points forward over the
table, y to the robot's left, z up. All lengths in metres.
"""

import functools
from pathlib import Path

import mujoco
import numpy as np

from selfalign.sim.arm import Arm, Shape, Vector

ASSETS = Path(__file__).parent / "assets"
COLOURS = ("red", "green", "blue")
COLOUR_RGB = {"red": (0.9, 0.08, 0.08), "green": (0.05, 0.7, 0.12), "blue": (0.1, 0.2, 0.95)}
CUBE_EDGE_M = 0.05
OPENING_MAX_M = 0.09
"""Gap between the fingers when the gripper is fully open."""
TOOL_LENGTH_M = 0.13
"""From the flange to the tool tip, the point midway between the ends of the fingers."""
TIMESTEP_S = 0.004

_FINGER = "0.010 0.006 0.036"
_FINGER_SOLID = "0.011 0.008 0.036"
"""Half sizes of a finger as seen, and as felt: a thicker one holds better in fast contacts."""
_HEADER = f"""
<mujoco model="selfalign">
<compiler angle="radian" autolimits="true"/>
<option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10"/>
<visual><quality shadowsize="0" offsamples="0" numslices="16" numstacks="6"/>
<global offwidth="512" offheight="512"/>
<map znear="0.05" zfar="20"/>
<headlight ambient="0.45 0.45 0.45" diffuse="0.35 0.35 0.35" specular="0 0 0"/></visual>
<default><geom contype="0" conaffinity="0" condim="4" friction="1.2 0.02 0.0001"
        solref="0.01 1"/>
<default class="solid"><geom contype="1" conaffinity="1"/></default></default>
"""


def _numbers(values: Vector | np.ndarray) -> str:
    return " ".join(f"{value:.6g}" for value in np.asarray(values).reshape(-1))


@functools.cache
def _meshes() -> dict[str, np.ndarray]:
    with np.load(ASSETS / "meshes.npz", allow_pickle=False) as bundle:
        return {name: bundle[name] for name in bundle.files}


def _shape_xml(shape: Shape) -> str:
    look = f'rgba="{_numbers((*shape.rgb, 1.0))}" mass="0"'
    if shape.kind == "mesh":
        return f'<geom type="mesh" mesh="{shape.mesh}" {look}/>'
    place = "pos" if shape.kind == "box" else "fromto"
    size, span = _numbers(shape.size), _numbers(shape.span)
    return f'<geom type="{shape.kind}" size="{size}" {place}="{span}" {look}/>'


def _mesh_assets(arm: Arm) -> str:
    shapes = [*arm.base_shapes, *(shape for link in arm.links for shape in link.shapes)]
    names = sorted({shape.mesh for shape in shapes if shape.kind == "mesh"})
    return "".join(
        f'<mesh name="{name}" inertia="shell" vertex="{_numbers(_meshes()[name + "/vertices"])}" '
        f'face="{_numbers(_meshes()[name + "/faces"])}"/>'
        for name in names
    )


def _gripper_xml() -> str:
    fingers = "".join(
        f'<body name="{side}_finger" pos="0 0 0.058" gravcomp="1">'
        f'<joint name="{side}_finger" type="slide" axis="0 {sign} 0" '
        f'range="0 {OPENING_MAX_M / 2}" armature="0.1" damping="5"/>'
        f'<geom class="solid" type="box" size="{_FINGER_SOLID}" pos="0 {sign * 0.008} 0.036" '
        f'group="3" mass="0.05"/>'
        f'<geom type="box" size="{_FINGER}" pos="0 {sign * 0.006} 0.036" '
        f'rgba="0.95 0.6 0.1 1" mass="0"/>'
        f'<site name="{side}_tip" pos="0 {sign * 0.006} 0.072"/></body>'
        for side, sign in (("left", 1), ("right", -1))
    )
    return (
        '<body name="hand" gravcomp="1"><inertial pos="0 0 0.03" mass="0.5" '
        'diaginertia="0.001 0.001 0.001"/>'
        '<geom class="solid" type="box" size="0.022 0.062 0.029" pos="0 0 0.029" '
        'rgba="0.2 0.2 0.22 1"/>'
        f'<site name="tool" pos="0 0 {TOOL_LENGTH_M}"/>{fingers}</body>'
    )


def _arm_xml(arm: Arm) -> str:
    chain = (
        f'<body name="flange" pos="{_numbers(arm.flange_position)}" '
        f'quat="{_numbers(arm.flange_quaternion)}">{_gripper_xml()}</body>'
    )
    for index, link in reversed(list(enumerate(arm.links))):
        shapes = "".join(_shape_xml(shape) for shape in link.shapes)
        inertia = _numbers((0.01 * link.mass,) * 3)
        chain = (
            f'<body name="link{index}" pos="{_numbers(link.position)}" '
            f'quat="{_numbers(link.quaternion)}" gravcomp="1">'
            f'<inertial pos="0 0 0" mass="{link.mass}" diaginertia="{inertia}"/>'
            f'<joint name="joint{index}" axis="{_numbers(link.axis)}" '
            f'range="{_numbers(link.limits)}" armature="0.4" damping="2"/>{shapes}{chain}</body>'
        )
    base = "".join(_shape_xml(shape) for shape in arm.base_shapes)
    return f'<body name="base" quat="{_numbers(arm.base_quaternion)}">{base}{chain}</body>'


def _servos_xml(arm: Arm) -> str:
    joints = "".join(
        f'<position name="joint{i}" joint="joint{i}" kp="6000" kv="190" '
        f'ctrlrange="{_numbers(link.limits)}" forcerange="-600 600"/>'
        for i, link in enumerate(arm.links)
    )
    fingers = "".join(
        f'<position name="{side}_finger" joint="{side}_finger" kp="1500" kv="30" '
        f'ctrlrange="-0.01 {OPENING_MAX_M / 2}" forcerange="-20 20"/>'
        for side in ("left", "right")
    )
    return joints + fingers


def _cubes_xml() -> str:
    half = CUBE_EDGE_M / 2
    return "".join(
        f'<body name="{colour}" pos="0.5 {0.15 * (index - 1)} {half}">'
        f'<freejoint name="{colour}"/><geom class="solid" type="box" size="{half} {half} {half}" '
        f'mass="0.08" rgba="{_numbers((*COLOUR_RGB[colour], 1.0))}"/></body>'
        for index, colour in enumerate(COLOURS)
    )


def build_model(arm: Arm, camera_names: tuple[str, ...]) -> mujoco.MjModel:
    """Compile the scene. Body, joint, site, camera and actuator names are fixed; see the source."""
    cameras = "".join(f'<camera name="{name}" pos="1.5 0 1"/>' for name in camera_names)
    world = (
        '<light directional="true" pos="0 0 3" dir="-0.3 0.25 -1" castshadow="false" '
        'diffuse="0.4 0.4 0.4" specular="0 0 0"/>'
        '<geom type="plane" size="6 6 1" pos="0 0 -0.7" rgba="0.42 0.45 0.48 1"/>'
        '<geom name="table" class="solid" type="box" size="0.5 0.6 0.03" pos="0.35 0 -0.03" '
        'rgba="0.76 0.7 0.6 1"/>'
    )
    return mujoco.MjModel.from_xml_string(
        f"{_HEADER}<asset>{_mesh_assets(arm)}</asset><worldbody>{world}{cameras}{_arm_xml(arm)}"
        f'{_cubes_xml()}</worldbody><contact><exclude body1="left_finger" body2="right_finger"/>'
        f"</contact><actuator>{_servos_xml(arm)}</actuator></mujoco>"
    )
