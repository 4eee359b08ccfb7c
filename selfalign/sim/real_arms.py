"""The arms with real meshes: Franka Emika Panda and Universal Robots UR5e."""

import math

from selfalign.sim.arm import BLACK, BLUE, DARK, GREY, WHITE, Arm, Link, Shape, Vector


def _mesh(name: str, rgb: Vector) -> Shape:
    return Shape("mesh", rgb, mesh=name)


def panda() -> Arm:
    """Franka Emika Panda, 7 joints."""
    flip, flop = (1.0, -1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)
    frames = [
        ((0.0, 0.0, 0.333), (1.0, 0.0, 0.0, 0.0), (-2.897, 2.897), 3.0, WHITE),
        ((0.0, 0.0, 0.0), flip, (-1.7627, 1.7627), 3.0, WHITE),
        ((0.0, -0.316, 0.0), flop, (-2.897, 2.897), 2.5, GREY),
        ((0.0825, 0.0, 0.0), flop, (-3.0717, -0.0698), 2.5, WHITE),
        ((-0.0825, 0.384, 0.0), flip, (-2.897, 2.897), 1.5, WHITE),
        ((0.0, 0.0, 0.0), flop, (-0.0174, 3.7524), 1.5, GREY),
        ((0.088, 0.0, 0.0), flop, (-2.897, 2.897), 0.7, DARK),
    ]
    links = tuple(
        Link(position, quaternion, (0.0, 0.0, 1.0), limits, mass, (_mesh(f"panda/link{i}", rgb),))
        for i, (position, quaternion, limits, mass, rgb) in enumerate(frames, start=1)
    )
    return Arm(
        name="panda",
        base_shapes=(_mesh("panda/link0", WHITE),),
        base_quaternion=(1.0, 0.0, 0.0, 0.0),
        links=links,
        flange_position=(0.0, 0.0, 0.107),
        flange_quaternion=(math.cos(math.pi / 8), 0.0, 0.0, -math.sin(math.pi / 8)),
        posture=(0.0, 0.2, 0.0, -2.2, 0.0, 2.4, 0.785),
        elbow=3,
    )


def ur5e() -> Arm:
    """Universal Robots UR5e, 6 joints."""
    turn, same = (1.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0)
    pitch, yaw = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
    full, half = (-6.2831, 6.2831), (-3.1415, 3.1415)
    rows = [
        ("shoulder", (0.0, 0.0, 0.163), same, yaw, full, 3.7, (BLUE, BLACK, DARK)),
        ("upperarm", (0.0, 0.138, 0.0), turn, pitch, full, 4.0, (GREY, BLACK, DARK, BLUE)),
        ("forearm", (0.0, -0.131, 0.425), same, pitch, half, 2.3, (BLUE, GREY, BLACK, DARK)),
        ("wrist1", (0.0, 0.0, 0.392), turn, pitch, full, 1.2, (BLACK, BLUE, DARK)),
        ("wrist2", (0.0, 0.127, 0.0), same, yaw, full, 1.2, (BLACK, BLUE, DARK)),
    ]
    links = [
        Link(
            position,
            quaternion,
            axis,
            limits,
            mass,
            tuple(_mesh(f"ur5e/{name}_{i}", rgb) for i, rgb in enumerate(colours)),
        )
        for name, position, quaternion, axis, limits, mass, colours in rows
    ]
    links.append(Link((0.0, 0.0, 0.1), same, pitch, full, 0.3, (_mesh("ur5e/wrist3", GREY),)))
    return Arm(
        name="ur5e",
        base_shapes=(_mesh("ur5e/base_0", BLACK), _mesh("ur5e/base_1", DARK)),
        base_quaternion=(1.0, 0.0, 0.0, 1.0),
        links=tuple(links),
        flange_position=(0.0, 0.1, 0.0),
        flange_quaternion=(-1.0, 1.0, 0.0, 0.0),
        posture=(-1.5708, -1.5708, 1.5708, -1.5708, -1.5708, 0.0),
        elbow=2,
    )
