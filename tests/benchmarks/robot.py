"""Made-up observations and play of a robot, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np

RATE_HZ = 10.0


def observation(spec: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The fields `images`, `state` and `instruction` of a request, random within the limits."""
    return {
        "images": {camera["name"]: image(camera, rng) for camera in spec["cameras"]},
        "state": vector(spec["state"], rng),
        "instruction": spec.get("default_instruction") or "touch the red cube",
    }


def play_step(spec: dict[str, Any], rng: np.random.Generator, index: int) -> dict[str, Any]:
    """One play step; consecutive indices are one period of the robot apart."""
    return observation(spec, rng) | {
        "action": vector(spec["action"], rng),
        "t_ns": round(index * 1e9 / spec["rate_hz"]),
    }


def image(camera: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """`[height, width, 3]` uint8, as hard to compress as a camera's picture: smooth plus noise."""
    height, width = camera["height"], camera["width"]
    rows = np.linspace(0, 160, height, dtype=np.float32)[:, None, None]
    columns = np.linspace(0, 60, width, dtype=np.float32)[None, :, None]
    noise = rng.integers(0, 8, size=(height, width, 3)).astype(np.float32)
    return (rows * rng.uniform(0.3, 1.0, 3).astype(np.float32) + columns + noise).astype(np.uint8)


def vector(dimensions: list[dict[str, Any]], rng: np.random.Generator) -> np.ndarray:
    """`[n]` float32, uniform within the limits."""
    low = [dimension["low"] for dimension in dimensions]
    high = [dimension["high"] for dimension in dimensions]
    return rng.uniform(low, high).astype(np.float32)


def two_camera_spec(name: str, *, rate_hz: float = 50.0, size: int = 224) -> dict[str, Any]:
    """A robot with seven joints, a gripper and two square cameras."""
    joints = [{"name": f"joint_{i}", "unit": "rad", "low": -2.9, "high": 2.9} for i in range(1, 8)]
    gripper = {"name": "gripper", "unit": "1", "low": 0.0, "high": 1.0}
    return {
        "name": name,
        "rate_hz": rate_hz,
        "cameras": [{"name": n, "height": size, "width": size} for n in ("front", "wrist")],
        "state": [*joints, gripper],
        "action": [*joints, gripper],
        "default_instruction": "touch the red cube",
    }
