"""The transitions of an alignment job: read, split, encoded, or left on disk where too large.

At full size a prefix is megabytes. While all prefixes of a job fit into its memory they are
computed once and kept; beyond that they are fetched through the two tiers of the prefix cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from selfalign.align.batch import TransitionBatch
from selfalign.align.cached_transitions import CachedTransitions
from selfalign.align.holdout import split_held_out
from selfalign.align.prefix_cache import PrefixCache
from selfalign.align.robot_io import RobotIO
from selfalign.data.transitions import robot_starts
from selfalign.errors import NoPlayData

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from selfalign.align.aligner import Transitions
    from selfalign.data.episode_reader import EpisodeReader
    from selfalign.data.play_reader import PlayReader
    from selfalign.model.policy import Policy
    from server.align_job import AlignJob

# Fewer cannot be split into play to learn from and play to judge by.
MIN_TRANSITIONS = 32

# Rows of an episode that are decoded and encoded at once: bounds memory.
_ROWS_AT_ONCE = 128


@final
@dataclass(frozen=True, eq=False)
class Play:
    """Transitions to learn from and to judge by, and how many steps of play they come from.

    `cache` holds the prefixes of `train` where they do not all fit into memory.
    """

    train: Transitions
    held_out: TransitionBatch
    play_steps: int
    cache: PrefixCache | None = None


def load_play(job: AlignJob, policy: Policy, reader: PlayReader, turn: Callable[[], None]) -> Play:
    """Read the episodes of a job and encode their transitions, each frame about once.

    Raises:
        NoPlayData: There are fewer transitions than `MIN_TRANSITIONS`.
        StoreError: An episode cannot be read.
    """
    stride = policy.config.stride
    io = RobotIO(policy, job.spec)
    episodes = [reader.open(episode) for episode in job.episodes]
    lengths = [episode.length for episode in episodes]
    starts = [
        robot_starts(job.spec, episode.read_times(0, length), length, stride=stride)
        for episode, length in zip(episodes, lengths, strict=True)
    ]
    total = sum(len(rows) for rows in starts)
    if total < MIN_TRANSITIONS:
        raise too_little_play(job.spec.name, total, sum(lengths))
    keep = min(1.0, job.max_transitions / total)
    splits = split_held_out(starts, stride=stride)
    train = [_thinned(split.train, keep) for split in splits]
    held_out = [_thinned(split.held_out, keep) for split in splits]
    if not any(map(len, train)) or not any(map(len, held_out)):
        raise too_little_play(job.spec.name, total, sum(lengths))
    fit = job.prefix_memory_bytes // prefix_bytes(policy, len(job.spec.cameras))
    if sum(map(len, train)) + sum(map(len, held_out)) <= fit:
        parts = [
            TransitionBatch.cat(
                [
                    batch
                    for episode, rows in zip(episodes, side, strict=True)
                    for batch in _encode(io, episode, rows, turn)
                ]
            )
            for side in (train, held_out)
        ]
        return Play(parts[0], parts[1], sum(lengths))
    return _play_on_disk(job, io, episodes, (train, held_out), turn)


def prefix_bytes(policy: Policy, cameras: int) -> int:
    """Memory of the prefix of one frame under the empty prompt [byte]."""
    config = policy.config
    tokens = cameras * config.vision.tokens + len(policy.prompts.ids(""))
    numbers = config.language.depth * 2 * config.language.kv_heads * config.language.head_dim
    return tokens * numbers * policy.dtype.itemsize


def _play_on_disk(
    job: AlignJob,
    io: RobotIO,
    episodes: list[EpisodeReader],
    sides: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]],
    turn: Callable[[], None],
) -> Play:
    """Prefixes of `train` are cached in two tiers; `held_out` is thinned to half of the memory."""
    train, held_out = sides
    half = job.prefix_memory_bytes // 2
    cache = PrefixCache(
        job.out.parent / "prefixes", memory_bytes=half, disk_bytes=job.prefix_disk_bytes
    )
    judges = half // prefix_bytes(io.policy, len(io.spec.cameras))
    share = max(1, judges) / sum(map(len, held_out))
    batches = [
        batch
        for episode, rows in zip(episodes, held_out, strict=True)
        for batch in _encode(io, episode, _thinned(rows, share), turn)
    ]
    return Play(
        CachedTransitions.of(io, cache, [*episodes], train),
        TransitionBatch.cat(batches),
        sum(episode.length for episode in episodes),
        cache,
    )


def too_little_play(robot: str, transitions: int, steps: int, *, hint: str = "") -> NoPlayData:
    """Return the error for play that does not suffice; `hint`: what to do, but to record more."""
    return NoPlayData(
        f"robot {robot!r} has {transitions} transitions in {steps} durable steps of play, but "
        f"alignment needs at least {MIN_TRANSITIONS}; "
        f"{hint or 'record more (WS /play or POST /play)'}"
    )


def _thinned(rows: NDArray[np.int64], keep: float) -> NDArray[np.int64]:
    """Keep a share of the rows, evenly spread."""
    if keep >= 1.0 or len(rows) == 0:
        return rows
    wanted = max(1, int(keep * len(rows)))
    picked = torch.linspace(0, len(rows) - 1, wanted).round().long().numpy()
    return rows[picked]


def _encode(
    io: RobotIO,
    episode: EpisodeReader,
    rows: NDArray[np.int64],
    turn: Callable[[], None],
) -> list[TransitionBatch]:
    """Encode the transitions that begin at `rows`, a stretch of the episode at a time."""
    batches = []
    stride = io.policy.config.stride
    first = 0
    while first < len(rows):
        turn()
        start = int(rows[first])
        inside = rows[first:][rows[first:] < start + _ROWS_AT_ONCE]
        stop = int(inside[-1]) + stride + 1
        begin = start - io.rows_before
        batches.append(io.transitions(episode.read(begin, stop), inside - begin))
        first += len(inside)
    return batches
