"""What a control loop counts while it runs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import final

import numpy as np


@final
@dataclass(frozen=True)
class LoopStatistics:
    """Counts since the loop was made. Every tick either applied a step or held."""

    ticks: int
    applied: int
    held: int
    dropped: int
    """Steps never executed because their moment had passed."""
    overruns: int
    """Ticks skipped because the robot's own calls took longer than a period."""
    requests: int
    replies: int
    failures: int
    last_error: str | None
    latency_p50_s: float
    """From observing to having the chunk; over the last 256 replies. 0 before the first."""
    latency_p99_s: float
    w_version: int | None
    """The W of the newest chunk; None before the first."""
    swaps: int
    """How often that version changed."""
    continued: int
    """Requests that asked for a chunk that continues the one being executed."""
    late_takeovers: int
    """Of these, how many came later than was estimated: the command may have jumped."""
    delay_steps: int
    """The present estimate: the largest recent delay from observing to taking over, in steps."""


@final
@dataclass
class Tally:
    """The loop's running counts. Only the loop's thread touches it."""

    ticks: int = 0
    applied: int = 0
    held: int = 0
    overruns: int = 0
    requests: int = 0
    replies: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    all_late: int = 0
    swaps: int = 0
    continued: int = 0
    late_takeovers: int = 0
    last_error: str | None = None
    w_version: int | None = None
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=256))

    @property
    def slowest_s(self) -> float:
        """The slowest of the last 16 replies [s]; 0 before the first."""
        recent = list(self.latencies_s)[-16:]
        return max(recent, default=0.0)

    def replied(self, *, latency_s: float, w_version: int) -> None:
        """Note a chunk that arrived."""
        self.replies += 1
        self.failures_in_a_row = 0
        self.latencies_s.append(latency_s)
        self.swaps += self.w_version is not None and w_version != self.w_version
        self.w_version = w_version

    def failed(self, message: str) -> None:
        """Note a request that brought no chunk."""
        self.failures += 1
        self.failures_in_a_row += 1
        self.last_error = message

    def report(self, *, dropped: int, delay_steps: int) -> LoopStatistics:
        """Freeze the counts."""
        latencies = np.asarray(self.latencies_s or [0.0])
        return LoopStatistics(
            ticks=self.ticks,
            applied=self.applied,
            held=self.held,
            dropped=dropped,
            overruns=self.overruns,
            requests=self.requests,
            replies=self.replies,
            failures=self.failures,
            last_error=self.last_error,
            latency_p50_s=float(np.percentile(latencies, 50)),
            latency_p99_s=float(np.percentile(latencies, 99)),
            w_version=self.w_version,
            swaps=self.swaps,
            continued=self.continued,
            late_takeovers=self.late_takeovers,
            delay_steps=delay_steps,
        )
