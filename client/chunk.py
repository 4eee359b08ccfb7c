"""What goes into a call of the policy and what comes out.

Shape key: H steps of a chunk, A action dimensions, S state dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NotRequired, Required, TypedDict, final

import numpy as np
from numpy.typing import NDArray


class Observation(TypedDict, total=False):
    """What the robot senses at one instant, in the units of its spec."""

    images: Required[Mapping[str, NDArray[np.uint8] | bytes]]
    """Camera name -> image [height, width, 3], RGB; or the bytes of a JPEG or PNG file."""
    state: Required[NDArray[np.floating] | list[float]]
    """Proprioception [S], in the order of the robot's spec."""
    instruction: NotRequired[str]
    """What to do, in words; the spec's default if absent."""


@final
@dataclass(frozen=True, eq=False)
class Continuation:
    """What a new chunk has to continue: the steps that are left of the one being executed."""

    actions: NDArray[np.float32]
    """[n, A] in the units of the robot's spec; row 0 belongs to the moment of the observation."""
    inference_delay: int
    """How many of them will have been executed when the new chunk takes over."""
    execution_horizon: int | None = None
    """From this step on the new chunk is free; all rows of `actions` count if None."""


@final
@dataclass(frozen=True)
class ActionChunk:
    """H consecutive commands, made by one W from one observation."""

    actions: NDArray[np.float32]
    """[H, A] in the units of the robot's spec. Step i belongs to `observed_at_s + i * dt_s`."""
    dt_s: float
    """Time between two steps [s]."""
    observed_at_s: float
    """When the observation was taken, on this machine's monotonic clock [s]."""
    robot: str = ""
    w_version: int = 0
    """Version of W that made every step of this chunk; 0 is the base."""
    w_sha256: str = ""
    base_sha256: str = ""
    observation_seq: int | None = None
    clamped_dims: tuple[str | int, ...] = ()
    """Action dimensions that the server's safety limits changed."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """What the server spent where: queue_ms, encode_ms, inference_ms, total_ms."""
    round_trip_s: float = 0.0
    """From the request's first byte to the reply's last, seen from here [s]."""
