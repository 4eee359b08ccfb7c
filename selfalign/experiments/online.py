"""A W for one episode: it goes on from a given W and learns from what this episode did so far.

Nothing is kept from one episode to the next.
"""

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from selfalign.align.aligner import Aligner
from selfalign.align.batch import TransitionBatch
from selfalign.align.robot_io import RobotIO
from selfalign.data.observation import Observation
from selfalign.data.play_store import EpisodeSlice
from selfalign.model.weights import FastWeights


@final
class OnlineW:
    """The W of one episode under way.

    Args:
        io: The robot.
        w: What the episode starts with.
        aligner: Whose losses and batch size are taken.
        steps: Alignment steps after each chunk.
        seed: Of the draws.
    """

    def __init__(
        self, io: RobotIO, w: FastWeights, aligner: Aligner, *, steps: int, seed: int
    ) -> None:
        self._io, self._aligner, self._steps = io, aligner, steps
        self._state = aligner.start(w)
        self._generator = torch.Generator().manual_seed(seed)
        self._seen: list[Observation] = []
        self._done: list[NDArray[np.float32]] = []
        self._transitions: TransitionBatch | None = None

    @property
    def w(self) -> FastWeights:
        """The W that the next chunk is made with."""
        return self._state.w

    def add(self, before: Observation, action: NDArray[np.float32]) -> None:
        """Take note of one control step: what was seen, and the action that was executed then."""
        self._seen.append(before)
        self._done.append(action)

    def learn(self, latest: Observation) -> None:
        """Align on all transitions of the episode; `latest` was seen after the last action."""
        self._gather(latest)
        if self._transitions is None:
            return
        count, size = len(self._transitions), self._aligner.config.batch_size
        for _ in range(self._steps):
            rows = torch.randint(count, (size,), generator=self._generator)
            self._state = self._aligner.step(self._transitions.index(rows), self._state)

    def _gather(self, latest: Observation) -> None:
        """Encode the transitions that the last steps completed; keep what the next ones need."""
        stride, before = self._io.policy.config.stride, self._io.rows_before
        count = len(self._done) + 1 - stride - before
        if count < 1:
            return
        frames, spec = [*self._seen, latest], self._io.spec
        play = EpisodeSlice(
            images={
                camera.name: np.stack([frame.images[camera.name] for frame in frames])
                for camera in spec.cameras
            },
            state=np.stack([frame.state for frame in frames]),
            # No action is known of the latest frame, and no transition begins there.
            action=np.stack([*self._done, np.zeros_like(self._done[0])]),
            t_ns=np.arange(len(frames), dtype=np.int64) * spec.period_ns,
            instructions=tuple(frame.instruction for frame in frames),
        )
        fresh = self._io.transitions(play, np.arange(count) + before)
        known = self._transitions
        self._transitions = fresh if known is None else TransitionBatch.cat([known, fresh])
        self._seen, self._done = self._seen[count:], self._done[count:]
