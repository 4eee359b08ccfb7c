"""The steps still to be executed, each with the moment it belongs to."""

from __future__ import annotations

import threading
from typing import final

import numpy as np
from numpy.typing import NDArray

from client.chunk import ActionChunk
from client.clock import Clock


@final
class ActionQueue:
    """Steps of the newest chunk by time. Safe to use from several threads.

    A step belongs to one control period: it may be popped from half a period before its moment
    to half a period after, then it is late and dropped. A newer chunk replaces all older steps
    from its own first step on, so every executed step says which W made it; a chunk whose
    observation is older than that of a chunk already here is dropped.
    """

    def __init__(self, *, rate_hz: float, clock: Clock) -> None:
        if not rate_hz > 0:
            raise ValueError(f"rate_hz must be positive, got {rate_hz}")
        self._period_s = 1.0 / rate_hz
        self._clock = clock
        self._lock = threading.Lock()
        self._steps: list[tuple[float, NDArray[np.float32]]] = []
        self._newest_s = -np.inf
        self._n_dropped = 0

    @property
    def dropped(self) -> int:
        """Steps that were never executed because their moment had passed."""
        return self._n_dropped

    @property
    def remaining_s(self) -> float:
        """Time until the queue runs out [s]; 0 if it already has."""
        with self._lock:
            if not self._steps:
                return 0.0
            return max(0.0, self._steps[-1][0] + self._period_s - self._clock.now_s())

    def remaining(self) -> list[NDArray[np.float32]]:
        """The steps [A] from the present period on, one a period, up to the first gap."""
        now_s, slack_s = self._clock.now_s(), self._period_s / 2
        with self._lock:
            steps = [step for step in self._steps if step[0] >= now_s - slack_s]
        actions: list[NDArray[np.float32]] = []
        for at_s, action in steps:
            if at_s > now_s + len(actions) * self._period_s + slack_s:
                break
            actions.append(action)
        return actions

    def push(self, chunk: ActionChunk) -> int:
        """Add a chunk's steps that are not late yet.

        Returns:
            How many steps of it can still be executed.
        """
        times = chunk.observed_at_s + chunk.dt_s * np.arange(len(chunk.actions))
        fresh_from_s = self._clock.now_s() - self._period_s / 2
        with self._lock:
            if chunk.observed_at_s < self._newest_s:
                self._n_dropped += len(times)
                return 0
            self._newest_s = chunk.observed_at_s
            steps = [
                (float(at_s), action)
                for at_s, action in zip(times, chunk.actions, strict=True)
                if at_s >= fresh_from_s
            ]
            self._n_dropped += len(times) - len(steps)
            if steps:
                kept = [step for step in self._steps if step[0] < steps[0][0] - self._period_s / 2]
                self._steps = kept + steps
            return len(steps)

    def pop(self) -> NDArray[np.float32] | None:
        """Take the step that belongs to the present period, or None if there is none."""
        now_s = self._clock.now_s()
        slack_s = self._period_s / 2
        with self._lock:
            late = sum(1 for at_s, _ in self._steps if at_s < now_s - slack_s)
            self._n_dropped += late
            del self._steps[:late]
            if self._steps and self._steps[0][0] <= now_s + slack_s:
                return self._steps.pop(0)[1]
            return None

    def clear(self) -> None:
        """Forget every step, and chunks still to come from observations made before now."""
        with self._lock:
            self._steps.clear()
            self._newest_s = self._clock.now_s()
