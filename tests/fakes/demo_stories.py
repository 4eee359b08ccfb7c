"""Made-up outcomes of the demonstration, for its statistics, tables and picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploy.demo.embodiments import draw_embodiment
from deploy.demo.rollouts import Rollout
from deploy.demo.story import Curve, Story
from server.wire.operator import AlignSession, SnapshotInfo
from tests.fakes.server_replies import SNAPSHOT, session


def rollout(*, is_success: bool, steps: int = 50, frames: int = 8) -> Rollout:
    rng = np.random.default_rng(steps)
    film = rng.integers(0, 255, (frames, 96, 96, 3), dtype=np.uint8)
    return Rollout(
        start=1, instruction="touch the red cube", is_success=is_success, steps=steps, film=film
    )


def story(
    before: Sequence[bool], after: Sequence[bool], *, index: int = 0, state: str = "succeeded"
) -> Story:
    error = "too large" if state == "rejected" else None
    curve = Curve()
    for step in range(1, 51):
        losses = {"inverse_dynamics": 1.0, "dynamics": 0.5, "perception": 0.2, "total": 1.7}
        shown = {f"alignment/{name}": value / step for name, value in losses.items()}
        curve.add(step, shown)
    return Story(
        embodiment=draw_embodiment("both", seed=0, index=index),
        before=[rollout(is_success=item) for item in before],
        after=[rollout(is_success=item, steps=20, frames=6) for item in after],
        play_s=13.0,
        align_s=2.5,
        session=AlignSession.model_validate(session(state, error=error)),
        snapshot=SnapshotInfo.model_validate(SNAPSHOT),
        curve=curve,
    )
