"""Where a camera stands and where world points fall in its image."""

import math
from dataclasses import dataclass, field
from typing import final

import numpy as np

WORKSPACE_CENTRE = (0.46, 0.0, 0.14)


@final
@dataclass(frozen=True)
class CameraPose:
    """A camera that looks at a point.

    Azimuth 0 is in front of the robot (the camera looks back at it), positive towards the
    robot's left; elevation is above the horizon; `roll_deg` turns the image about its centre.
    """

    azimuth_deg: float = 0.0
    elevation_deg: float = 40.0
    distance_m: float = 1.1
    look_at: tuple[float, float, float] = WORKSPACE_CENTRE
    fovy_deg: float = 45.0
    roll_deg: float = 0.0

    @property
    def position(self) -> np.ndarray:
        """Position [3] in the world [m]."""
        azimuth, elevation = math.radians(self.azimuth_deg), math.radians(self.elevation_deg)
        flat = math.cos(elevation)
        back = (flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation))
        return np.array(self.look_at) + self.distance_m * np.array(back)

    @property
    def axes(self) -> np.ndarray:
        """Camera frame in the world [3, 3]: columns right, up and backward."""
        back = (self.position - np.array(self.look_at)) / self.distance_m
        azimuth, roll = math.radians(self.azimuth_deg), math.radians(self.roll_deg)
        level = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
        above = np.cross(back, level)
        right = math.cos(roll) * level + math.sin(roll) * above
        return np.stack([right, np.cross(back, right), back], axis=1)


@final
@dataclass(frozen=True)
class CameraSector:
    """Ranges that random cameras are drawn from, each (low, high)."""

    azimuth_deg: tuple[float, float] = (-60.0, 60.0)
    elevation_deg: tuple[float, float] = (25.0, 55.0)
    distance_m: tuple[float, float] = (0.9, 1.3)
    fovy_deg: tuple[float, float] = (40.0, 50.0)
    roll_deg: tuple[float, float] = (0.0, 0.0)
    look_at_jitter_m: float = 0.06


ALL_AROUND = CameraSector(azimuth_deg=(-180.0, 180.0))
HELD_OUT_AZIMUTH_DEG = (10.0, 50.0)
"""Azimuths inside the trained range that training can leave out, to test it there."""


@dataclass(frozen=True)
class SectorWithout:
    """A sector with a range of azimuths left out, to test generalisation inside the range."""

    gap_deg: tuple[float, float]
    sector: CameraSector = field(default=ALL_AROUND)


def without_held_out(sector: CameraSector | None = None) -> SectorWithout:
    """What to train on so that cameras within `HELD_OUT_AZIMUTH_DEG` stay unseen."""
    return SectorWithout(HELD_OUT_AZIMUTH_DEG, sector or CameraSector())


def random_camera(
    rng: np.random.Generator, sector: CameraSector | SectorWithout | None = None
) -> CameraPose:
    """Draw a camera pose; the default sector is +-60 degrees around the front."""
    if isinstance(sector, SectorWithout):
        while True:
            pose = random_camera(rng, sector.sector)
            if not sector.gap_deg[0] <= pose.azimuth_deg <= sector.gap_deg[1]:
                return pose
    ranges = sector or CameraSector()
    jitter = rng.uniform(-ranges.look_at_jitter_m, ranges.look_at_jitter_m, 3)
    x, y, z = np.array(WORKSPACE_CENTRE) + jitter
    return CameraPose(
        azimuth_deg=float(rng.uniform(*ranges.azimuth_deg)),
        elevation_deg=float(rng.uniform(*ranges.elevation_deg)),
        distance_m=float(rng.uniform(*ranges.distance_m)),
        look_at=(float(x), float(y), float(z)),
        fovy_deg=float(rng.uniform(*ranges.fovy_deg)),
        roll_deg=float(rng.uniform(*ranges.roll_deg)),
    )


def project(pose: CameraPose, points: np.ndarray) -> np.ndarray:
    """Project world points [..., 3] into a square image.

    Returns:
        [..., 3]: u (0 left, 1 right), v (0 top, 1 bottom), depth along the view axis [m]. Points
        outside the image have u or v outside [0, 1]; points behind the camera a negative depth.
    """
    local = (np.asarray(points, np.float64) - pose.position) @ pose.axes
    depth = -local[..., 2]
    safe = np.where(np.abs(depth) < 1e-6, 1e-6, depth)
    focal = 0.5 / math.tan(math.radians(pose.fovy_deg) / 2)
    u = 0.5 + focal * local[..., 0] / safe
    v = 0.5 - focal * local[..., 1] / safe
    return np.stack([u, v, depth], axis=-1).astype(np.float32)


def unproject(pose: CameraPose, points: np.ndarray) -> np.ndarray:
    """From (u, v, depth) [..., 3] back to world points [..., 3] in metres: undoes `project`."""
    u, v, depth = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    focal = 0.5 / math.tan(math.radians(pose.fovy_deg) / 2)
    local = np.stack([(u - 0.5) * depth / focal, (0.5 - v) * depth / focal, -depth], axis=-1)
    return pose.position + local @ pose.axes.T
