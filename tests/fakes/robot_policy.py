"""A robot policy without a network: its chunk is whatever a test puts there."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

HORIZON = 4


class FakeRobotPolicy:
    """Stands in for `selfalign.align.robot_io.RobotIO`.

    Attributes:
        chunk: the answer, or None for rows of the first number of W.
        error: raised instead of an answer.
        hold: an answer waits for this event, if there is one.
        seen: the observations that came.
        continuations: what their chunks were to continue.
        last_commands: the commands before them.
        threads: the names of the threads that asked.
    """

    def __init__(self, policy: Any, spec: Any) -> None:
        self.policy = policy
        self.spec = spec
        self.chunk: np.ndarray | None = None
        self.error: Exception | None = None
        self.hold: threading.Event | None = None
        self.asked = threading.Event()
        self.seen: list[Any] = []
        self.continuations: list[Any] = []
        self.last_commands: list[Any] = []
        self.horizon = HORIZON
        self.threads: set[str] = set()

    def act(
        self,
        observations: list[Any],
        w: Any,
        *,
        seed: int | None = None,
        continuations: Any = (),
        last_commands: Any = (),
    ) -> np.ndarray:
        self.threads.add(threading.current_thread().name)
        self.seen.extend(observations)
        self.continuations.extend(continuations)
        self.last_commands.extend(last_commands)
        self.asked.set()
        if self.hold is not None:
            assert self.hold.wait(60)
        if self.error is not None:
            raise self.error
        if self.chunk is not None:
            return self.chunk[None]
        first = float(w.W1.flatten()[0])
        return np.full((len(observations), HORIZON, len(self.spec.action)), first, np.float32)
