"""Which transitions are kept back to judge a candidate: whole episodes, else stretches of time.

Neighbouring frames are nearly equal, so a split by frame would judge W on what it was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Starts = NDArray[np.int64]

# A split by episode is taken only if it comes this close to the share that was asked for.
_TOLERANCE = 2.0
# Many short stretches meet more of the play than one long one, but each costs two strides of
# training, and rows close in time are alike. Shortest in strides; most of them.
_SHORTEST = 3
_MOST = 8


@final
@dataclass(frozen=True, eq=False)
class Split:
    """Starts of one episode's transitions: those to train on, those to judge by."""

    train: Starts
    held_out: Starts


def split_held_out(starts: Sequence[Starts], *, stride: int, share: float = 0.2) -> list[Split]:
    """Split the transitions of each episode, given by their first rows in rising order.

    With several episodes a run of whole episodes is held out, if one has about `share` of all
    transitions. Otherwise contiguous stretches of time are held out, and training transitions that
    touch a row of a held-out one are left out of both.

    Args:
        starts: First rows of the transitions of each episode.
        stride: Rows from the first to the last of a transition.
        share: Part of all transitions to hold out, about.
    """
    counts = np.array([len(rows) for rows in starts], dtype=np.int64)
    run = _run_of_episodes(counts, share)
    if run is None:
        return _by_time(starts, stride, share)
    empty = np.zeros(0, np.int64)
    return [
        Split(empty, rows) if run[0] <= number < run[1] else Split(rows, empty)
        for number, rows in enumerate(starts)
    ]


def _run_of_episodes(counts: NDArray[np.int64], share: float) -> tuple[int, int] | None:
    """The run [first, last) of episodes with nearest to `share` of all transitions, if near."""
    if len(counts) < 2 or counts.sum() == 0:
        return None
    ends = np.concatenate([[0], counts.cumsum()])
    share_of_run = (ends[None, :] - ends[:, None]) / ends[-1]
    # Runs are first < last; the ratio punishes too little as much as too much.
    usable = (share_of_run > 0) & (share_of_run < 1)
    ratio = np.full(share_of_run.shape, np.inf)
    ratio[usable] = np.abs(np.log(share_of_run[usable] / share))
    first, last = np.unravel_index(ratio.argmin(), ratio.shape)
    return (int(first), int(last)) if ratio[first, last] <= np.log(_TOLERANCE) else None


def _by_time(starts: Sequence[Starts], stride: int, share: float) -> list[Split]:
    total = sum(len(rows) for rows in starts)
    stretches = min(max(int(total * share / (_SHORTEST * stride)), 1), _MOST)
    # The middle of each part: neither the first movements nor the last.
    period = total / stretches
    position = np.arange(total) % period / period
    is_held_out = np.abs(position - 0.5) < share / 2
    splits, seen = [], 0
    for rows in starts:
        held_out = rows[is_held_out[seen : seen + len(rows)]]
        splits.append(Split(_clear_of(rows, held_out, stride), held_out))
        seen += len(rows)
    return splits


def _clear_of(rows: Starts, held_out: Starts, stride: int) -> Starts:
    """The transitions that share no row with a held-out one."""
    if len(held_out) == 0:
        return rows
    touched = np.zeros(int(rows[-1]) + 2 * stride + 2, dtype=np.int64)
    for offset in range(stride + 1):
        touched[held_out + offset] = 1
    before = np.concatenate([[0], touched.cumsum()])
    return rows[before[rows + stride + 1] == before[rows]]
