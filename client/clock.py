"""Time as the control loop sees it: passed in, so that tests decide how it flows."""

from __future__ import annotations

import time
from typing import Protocol, final


class Clock(Protocol):
    """A monotonic clock of this machine. Two machines' clocks are never compared."""

    def now_s(self) -> float:
        """Seconds since an arbitrary fixed moment; never goes back."""

    def sleep_s(self, duration_s: float) -> None:
        """Return after `duration_s` seconds; at once if it is not positive."""


@final
class MonotonicClock:
    """The real time of this machine."""

    def now_s(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()

    def sleep_s(self, duration_s: float) -> None:
        """Sleep for the duration; at once if it is not positive."""
        if duration_s > 0:
            time.sleep(duration_s)
