"""Which steps of an episode begin a transition: no gap in time and no end in between."""

from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfalign.data.spec import RobotSpec
from selfalign.errors import SelfAlignError

TOLERANCE = 0.5
"""Largest deviation of the time between two steps from the period, as a share of it."""


@final
class TransitionError(SelfAlignError):
    """The time stamps or parameters cannot describe transitions."""


def robot_starts(
    spec: RobotSpec, t_ns: ArrayLike, length: int, *, stride: int
) -> NDArray[np.int64]:
    """The steps that begin a transition of a robot, as `transition_starts` finds them.

    Where actions are targets the policy sees their change since the last command. So the step
    before must have been recorded too: the first one after a gap begins no transition.
    """
    period_ns, before = spec.period_ns, rows_before(spec)
    if length <= before:
        return np.empty(0, dtype=np.int64)
    starts = transition_starts(t_ns, length, stride=stride + before, period_ns=period_ns)
    return starts + before


def rows_before(spec: RobotSpec) -> int:
    """How many recorded steps before the first one a robot's transition needs."""
    return 1 if spec.targets else 0


def transition_starts(
    t_ns: ArrayLike, length: int, *, stride: int, period_ns: int, tolerance: float = TOLERANCE
) -> NDArray[np.int64]:
    """Return the steps i for which i to i + stride follow one another without a gap.

    The transition that begins at i takes observation i, actions i to i + stride - 1 and observation
    i + stride. Two steps follow one another if the time between them is one period within
    `tolerance`; a step that comes too early, or from a clock that was set back, is a gap as well.

    Args:
        t_ns: time stamps of one episode, at least `length` of them [ns].
        length: steps that count.
        stride: k, in steps.
        period_ns: time between two steps at the robot's rate [ns].
        tolerance: largest deviation, as a share of the period.

    Raises:
        TransitionError: a parameter is out of range or there are fewer time stamps than steps.
    """
    times = np.asarray(t_ns)
    _check(times, length, stride=stride, period_ns=period_ns, tolerance=tolerance)
    if length <= stride:
        return np.empty(0, dtype=np.int64)
    elapsed = np.diff(times[:length].astype(np.int64))
    is_gap = np.abs(elapsed - period_ns) > tolerance * period_ns
    gaps_before = np.concatenate([[0], np.cumsum(is_gap)])
    gaps_inside = gaps_before[stride:] - gaps_before[:-stride]
    return np.flatnonzero(gaps_inside == 0).astype(np.int64)


def _check(
    times: NDArray[np.generic], length: int, *, stride: int, period_ns: int, tolerance: float
) -> None:
    if times.ndim != 1 or not np.issubdtype(times.dtype, np.integer):
        msg = f"t_ns must be a vector of integers [ns], got {times.dtype} {list(times.shape)}"
        raise TransitionError(msg)
    if not 0 <= length <= times.size:
        raise TransitionError(f"length must be 0 to {times.size}, the time stamps, got {length}")
    if stride < 1:
        raise TransitionError(f"stride must be at least 1 step, got {stride}")
    if period_ns <= 0:
        raise TransitionError(f"period_ns must be positive, got {period_ns}")
    if not 0.0 <= tolerance < 1.0:
        raise TransitionError(f"tolerance must be at least 0 and below 1, got {tolerance}")
