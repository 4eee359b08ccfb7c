"""Arms with random kinematics and looks, made from a seed.

All are built like an industrial arm: yaw, shoulder, elbow and wrist pitch, and a last roll. Six
joints add a roll of the forearm, seven one of the upper arm too. Lengths, offsets, directions and
zero positions of the joints are drawn; lengths only such that the whole workspace is in reach with
the gripper pointing down. Looks are drawn apart: colours, thickness, caps on the joints, collars
and the section of the beams. An arm is grey in one of three.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from selfalign.sim.arm import Arm, Link, Shape, Vector
from selfalign.sim.scene import COLOUR_RGB

_UP, _ALONG = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)
_TOOL_LENGTH_M = 0.13
_MIDDLE = (0.48, 0.0, 0.18)
"""Tool position that the posture is made for."""
_UNLIKE_CUBES = 0.4
"""Distance in red, green and blue, each 0 to 1."""


@final
@dataclass(frozen=True)
class _Looks:
    """How the links of one arm look. Colours are of hubs, beams, and of caps and collars.

    `girth` multiplies radii. Every joint has caps or none; a beam is round or a box, and has a
    collar at a share of its length, or none.
    """

    hub: Vector
    beam: Vector
    accent: Vector
    girth: float
    has_caps: bool
    is_box: bool
    collar: float | None

    @classmethod
    def draw(cls, seed: int, light: Vector, dark: Vector) -> Self:
        """The looks of a seed; `light` and `dark` are the greys that an arm may keep."""
        # Apart from the geometry: an arm moves the same, however it looks.
        rng = np.random.default_rng([0xA24, seed])
        hub, beam = (light, dark) if rng.random() < 0.3 else (dark, light)
        if rng.random() > 1 / 3:
            hub, beam = (_colour(rng) if rng.random() < 0.6 else shade for shade in (hub, beam))
        accent = _colour(rng)
        collar = float(rng.uniform(0.2, 0.8)) if rng.random() < 0.4 else None
        return cls(
            hub=hub,
            beam=beam,
            accent=accent,
            girth=float(rng.uniform(0.8, 1.5)),
            has_caps=bool(rng.random() < 0.6),
            is_box=bool(rng.random() < 0.25),
            collar=collar,
        )


def _colour(rng: np.random.Generator) -> Vector:
    """Any hue, from grey to vivid, that nobody takes for a cube."""
    while True:
        hue, saturation, value = rng.uniform((0.0, 0.0, 0.15), (1.0, 0.9, 0.95))
        colour = colorsys.hsv_to_rgb(hue, saturation, value)
        if min(math.dist(colour, cube) for cube in COLOUR_RGB.values()) > _UNLIKE_CUBES:
            return colour


def procedural_arm(seed: int) -> Arm:
    """Return the arm of a seed: 5, 6 or 7 joints, named `procedural-<seed>`."""
    return _Builder(seed).build()


@final
class _Builder:
    """Draws the numbers of one arm and assembles its links."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        rng = self._rng = np.random.default_rng([0xA23, seed])
        self._joint_count = int(rng.integers(5, 8))
        self._base_height = float(rng.uniform(0.08, 0.2))
        self._shoulder_height = float(rng.uniform(0.26, 0.4)) - self._base_height
        self._forward = float(rng.uniform(0.0, 0.06))
        self._aside = [float(offset) for offset in rng.uniform(-0.07, 0.07, 3)]
        length, share = float(rng.uniform(0.84, 0.94)), float(rng.uniform(0.46, 0.54))
        self._upper, self._fore = length * share, length * (1 - share)
        self._wrist = float(rng.uniform(0.09, 0.15))
        self._radius = float(rng.uniform(0.03, 0.05))
        self._looks = _Looks.draw(seed, *self._shades())

    def _shades(self) -> tuple[Vector, Vector]:
        tint = self._rng.uniform(-0.04, 0.04, 3)
        light = np.clip(self._rng.uniform(0.5, 0.93) + tint, 0.0, 1.0)
        dark = np.clip(self._rng.uniform(0.12, 0.42) + tint, 0.0, 1.0)
        return tuple(map(float, light)), tuple(map(float, dark))

    def build(self) -> Arm:
        """Return the arm."""
        shoulder, elbow, wrist = self._pitches()
        upper, fore = self._joint_count == 7, self._joint_count >= 6
        no_shift = (0.0, 0.0)
        stages = [
            (_UP, self._base_height, no_shift, 0.0),
            (_ALONG, self._shoulder_height, (self._forward, self._aside[0]), shoulder),
            *([(_UP, 0.4 * self._upper, no_shift, 0.0)] if upper else []),
            (_ALONG, (0.6 if upper else 1.0) * self._upper, (0.0, self._aside[1]), elbow),
            *([(_UP, 0.35 * self._fore, no_shift, 0.0)] if fore else []),
            (_ALONG, (0.65 if fore else 1.0) * self._fore, (0.0, self._aside[2]), wrist),
            (_UP, 0.6 * self._wrist, no_shift, 0.0),
        ]
        reaches = [(*shift, height) for _, height, shift, _ in stages[1:]]
        flange = (0.0, 0.0, 0.4 * self._wrist)
        positions = [(*shift, height) for _, height, shift, _ in stages]
        links, posture = [], []
        for stage, position, reach in zip(stages, positions, [*reaches, flange], strict=True):
            link, angle = self._link(stage[0], stage[3], position, reach)
            links.append(link)
            posture.append(angle)
        return Arm(
            name=f"procedural-{self._seed}",
            base_shapes=self._base_shapes(),
            base_quaternion=(1.0, 0.0, 0.0, 0.0),
            links=tuple(links),
            flange_position=flange,
            flange_quaternion=(0.0, 0.0, 0.0, 1.0),
            posture=tuple(posture),
            elbow=3 if upper else 2,
        )

    def _pitches(self) -> tuple[float, float, float]:
        """Shoulder, elbow and wrist pitch [rad] that hold the tool at `_MIDDLE`, elbow up."""
        out = _MIDDLE[0] - self._forward
        up = _MIDDLE[2] + _TOOL_LENGTH_M + self._wrist - self._base_height - self._shoulder_height
        distance = math.hypot(out, up)
        inner = (self._upper**2 + self._fore**2 - distance**2) / (2 * self._upper * self._fore)
        elbow = math.pi - math.acos(inner)
        lean = math.asin(self._fore * math.sin(elbow) / distance)
        shoulder = math.atan2(out, up) - lean
        return shoulder, elbow, math.pi - shoulder - elbow

    def _link(
        self, axis: Vector, angle: float, position: Vector, reach: Vector
    ) -> tuple[Link, float]:
        """Return a link and its posture, with a random direction and zero position of its joint."""
        direction = float(self._rng.choice((-1.0, 1.0)))
        zero = float(self._rng.uniform(-0.6, 0.6))
        span = float(self._rng.uniform(2.3, 3.0))
        posture = direction * angle + zero
        half = -0.5 * direction * zero
        link = Link(
            position=position,
            quaternion=(math.cos(half), *(math.sin(half) * component for component in axis)),
            axis=tuple(direction * component for component in axis),
            limits=(posture - span, posture + span),
            mass=1.5,
            shapes=self._link_shapes(axis, reach),
        )
        return link, posture

    def _link_shapes(self, axis: Vector, reach: Vector) -> tuple[Shape, ...]:
        looks, radius = self._looks, self._radius * self._looks.girth
        half = 1.3 * radius
        shapes = [
            Shape("cylinder", looks.hub, size=(1.25 * radius,), span=_along(axis, -half, half))
        ]
        if looks.has_caps:
            for near, far in ((-1.35 * half, -half), (half, 1.35 * half)):
                span = _along(axis, near, far)
                shapes.append(Shape("cylinder", looks.accent, size=(1.1 * radius,), span=span))
        length = math.hypot(*reach)
        if length > 0.02:
            shapes.append(self._beam(reach, radius))
            if looks.collar is not None:
                middle = looks.collar * length
                span = _along([part / length for part in reach], middle - 0.02, middle + 0.02)
                shapes.append(Shape("cylinder", looks.accent, size=(1.15 * radius,), span=span))
        return tuple(shapes)

    def _beam(self, reach: Vector, radius: float) -> Shape:
        """What joins one joint to the next. A box stands upright: it leaves small shifts out."""
        if self._looks.is_box:
            half = (0.9 * radius, 0.9 * radius, max(abs(reach[2]) / 2, radius))
            centre = tuple(part / 2 for part in reach)
            return Shape("box", self._looks.beam, size=half, span=centre)
        return Shape("capsule", self._looks.beam, size=(radius,), span=(0.0, 0.0, 0.0, *reach))

    def _base_shapes(self) -> tuple[Shape, ...]:
        radius = 1.6 * self._radius * self._looks.girth
        column = (0.0, 0.0, 0.0, 0.0, 0.0, self._base_height)
        return (Shape("cylinder", self._looks.hub, size=(radius,), span=column),)


def _along(axis: Sequence[float], start: float, stop: float) -> Vector:
    """The two ends of a span on an axis through the origin."""
    return (*(start * part for part in axis), *(stop * part for part in axis))
