"""What a new chunk has to continue: the rest of the chunk that the robot is executing."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.observation import UNIT_MISTAKE, ObservationMismatch
from selfalign.data.spec import RobotSpec


@final
@dataclass(frozen=True, eq=False)
class Continuation:
    """The rest of a chunk, from the moment of the new observation on.

    Attributes:
        actions: `[n, A]` float32 in the units of the robot spec; row 0 belongs to the moment of
            the observation.
        delay: how many of them will have been executed when the new chunk takes over [step].
        until: from this step on the new chunk is free [step].
    """

    actions: NDArray[np.float32]
    delay: int
    until: int


def check_continuation(continuation: Continuation, spec: RobotSpec, horizon: int) -> None:
    """Check a continuation against the robot and the number of steps in a chunk.

    Raises:
        ObservationMismatch: naming the field of `/act` that is wrong.
    """
    actions, delay = continuation.actions, continuation.delay
    columns = len(spec.action)
    if actions.ndim != 2 or actions.shape[1] != columns or not 1 <= len(actions) <= horizon:
        raise ObservationMismatch(
            field="previous_actions",
            got=f"shape {list(actions.shape)}",
            expected=f"1 to {horizon} rows (the steps of a chunk) of {columns} numbers",
        )
    _check_values(actions, spec)
    if not 0 <= delay <= min(len(actions), horizon - 1):
        raise ObservationMismatch(
            field="inference_delay",
            got=delay,
            expected=f"0 to {min(len(actions), horizon - 1)} steps: at most the previous_actions "
            "sent, and fewer than a chunk has",
        )
    if continuation.until < delay:
        raise ObservationMismatch(
            field="execution_horizon",
            got=continuation.until,
            expected=f"at least the inference_delay of {delay} steps",
        )


def _check_values(actions: NDArray[np.float32], spec: RobotSpec) -> None:
    low, high = (np.array([getattr(d, k) for d in spec.action]) for k in ("low", "high"))
    middle, half = (low + high) / 2, (high - low) / 2
    # Written so that a NaN counts as wrong.
    wrong = ~(np.abs(actions - middle) <= UNIT_MISTAKE * half)
    if wrong.any():
        step, column = (int(i) for i in np.argwhere(wrong)[0])
        dimension = spec.action[column]
        raise ObservationMismatch(
            field=f"previous_actions[{step}][{column}] ({dimension.name})",
            got=float(actions[step, column]),
            expected=f"finite number in {dimension.unit or 'its unit'} near the declared limits "
            f"[{dimension.low}, {dimension.high}]",
        )
