"""Real-time chunking seen from the robot: which steps a new chunk must continue.

While a chunk is on its way the robot executes steps of the old one. How many is only known
afterwards, and a new chunk that was told too few jumps where it takes over. So the estimate is the
largest delay of the recent past, in steps of the loop, and never a mean.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from client.chunk import Continuation

_RECENT = 32


@final
@dataclass(frozen=True)
class RealTimeChunking:
    """Have each new chunk continue the one being executed.

    Attributes:
        execution_horizon: From this step on a new chunk is free, and the next one is asked for
            while this many steps are left, if not earlier; None: all that is left counts.
        margin: Steps added to the largest recent delay, for a network with rare long waits.
        least_overlap: Steps that must be left past the frozen ones; with fewer a new chunk is not
            tied to the old one. Without any overlap a short chunk does little but repeat the frozen
            steps: the shipped model, with 2 of its 4 steps frozen, moves more smoothly but succeeds
            less often (docs/decisions.md). 0 continues whatever there is.
    """

    execution_horizon: int | None = None
    margin: int = 0
    least_overlap: int = 1

    def __post_init__(self) -> None:
        if self.execution_horizon is not None and self.execution_horizon < 1:
            raise ValueError(f"execution_horizon must be positive, got {self.execution_horizon}")
        for name in ("margin", "least_overlap"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@final
class DelayEstimate:
    """Delays of recent replies in steps. Only the loop's thread touches it."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._recent: deque[int] = deque(maxlen=_RECENT)

    @property
    def steps(self) -> int:
        """The largest recent delay; that of the first reply, which is a cold one, only if alone."""
        return max(self._recent, default=self._first or 0)

    def add(self, latency_s: float, period_s: float) -> int:
        """Note a reply and return its delay: the number of its steps that are late."""
        delay = max(0, math.ceil(latency_s / period_s - 0.5))
        if self._first is None:
            self._first = delay
        else:
            self._recent.append(delay)
        return delay


def continuation_of(
    remaining: list[NDArray[np.float32]], delay: int, horizon: int, option: RealTimeChunking
) -> Continuation | None:
    """What to send with an observation; None if too little is left to continue.

    Args:
        remaining: the steps [A] left, the first one that of this moment.
        delay: the estimated delay [step].
        horizon: steps of a chunk.
        option: what the loop was told.
    """
    rows = remaining[:horizon]
    # A robot whose steps run out before the reply holds; more cannot be frozen than there is.
    frozen = min(delay + option.margin, len(rows), horizon - 1)
    if not rows or len(rows) < frozen + option.least_overlap:
        return None
    until = option.execution_horizon
    return Continuation(np.stack(rows), frozen, None if until is None else max(until, frozen, 1))
