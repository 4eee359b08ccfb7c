"""Arms with random kinematics and looks, made from a seed.

All are built like an industrial arm: yaw, shoulder, elbow and wrist pitch, and a last roll. Six
joints add a roll of the forearm, seven one of the upper arm too. Lengths, offsets, directions and
zero positions of the joints, thickness and shade are drawn; lengths only such that the whole
workspace is in reach with the gripper pointing down.
"""

import math
from typing import final

import numpy as np

from selfalign.sim.arm import Arm, Link, Shape, Vector

_UP, _ALONG = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)
_TOOL_LENGTH_M = 0.13
_MIDDLE = (0.48, 0.0, 0.18)
"""Tool position that the posture is made for."""


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
        self._main, self._dark = self._shades()

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
        radius, half = self._radius, 1.3 * self._radius
        hub = tuple(half * component for component in axis)
        ends = (*(-value for value in hub), *hub)
        shapes = [Shape("cylinder", self._dark, size=(1.25 * radius,), span=ends)]
        if math.hypot(*reach) > 0.02:
            beam = (0.0, 0.0, 0.0, *reach)
            shapes.append(Shape("capsule", self._main, size=(radius,), span=beam))
        return tuple(shapes)

    def _base_shapes(self) -> tuple[Shape, ...]:
        radius = 1.6 * self._radius
        column = (0.0, 0.0, 0.0, 0.0, 0.0, self._base_height)
        return (Shape("cylinder", self._dark, size=(radius,), span=column),)
