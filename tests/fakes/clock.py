"""Time that moves only when a test says so."""

from __future__ import annotations


class FakeClock:
    """A monotonic clock that starts at 0; sleeping advances it."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self.sleeps_s: list[float] = []

    def now_s(self) -> float:
        return self._now_s

    def sleep_s(self, duration_s: float) -> None:
        self.sleeps_s.append(duration_s)
        self.advance(max(0.0, duration_s))

    def advance(self, duration_s: float) -> None:
        self._now_s += duration_s
