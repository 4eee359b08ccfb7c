"""Which recorded play a session aligns on. Blocking: reads the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from selfalign.data.play_store import PlayStore, UnknownEpisode
from selfalign.data.transitions import TOLERANCE, robot_starts
from selfalign.data.w_spec import differing_fields, w_spec_sha256
from selfalign.errors import SelfAlignError, StoreError
from server.align_play import MIN_TRANSITIONS, too_little_play

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from selfalign.data.episode_reader import EpisodeReader
    from selfalign.data.play_reader import PlayReader
    from selfalign.data.spec import RobotSpec

# The most recent play that "live" takes: more than three minutes at 10 Hz.
LIVE_STEPS = 2048


class EpisodeNotFound(SelfAlignError):
    """An episode that was asked for does not exist."""

    code = "unknown-episode"
    status = 404


class EpisodeOfAnother(SelfAlignError):
    """An episode belongs to another robot, or to another spec of this one."""

    code = "bad-request"
    status = 422


def choose_play(
    root: Path, spec: RobotSpec, wanted: Sequence[str] | None, *, stride: int
) -> tuple[str, ...]:
    """Return the episodes to align on, oldest first.

    Args:
        root: The play store.
        spec: The robot; only play recorded under a spec that shares its W is used.
        wanted: The episodes asked for; None for the most recent play.
        stride: Steps from the first to the last of a transition.

    Raises:
        NoPlayData: They hold too few transitions.
        EpisodeNotFound, EpisodeOfAnother: One of those asked for cannot be used.
    """
    reader = PlayStore.reader(root)
    chosen = _latest(reader, spec) if wanted is None else _named(reader, spec, wanted)
    transitions = steps = 0
    apart = []
    for episode in chosen:
        length = episode.length
        times = episode.read_times(0, length)
        apart.append(np.diff(times))
        steps += length
        transitions += len(robot_starts(spec, times, length, stride=stride))
    if transitions < MIN_TRANSITIONS:
        hint = _wrong_rate(np.concatenate(apart), spec) if apart else ""
        raise too_little_play(spec.name, transitions, steps, hint=hint)
    return tuple(episode.id for episode in chosen)


def are_there(root: Path, episodes: Sequence[str]) -> bool:
    """Whether none of the episodes has been deleted."""
    reader = PlayStore.reader(root)
    try:
        for episode in episodes:
            reader.locate(episode)
    except UnknownEpisode:
        return False
    return True


def _wrong_rate(apart_ns: NDArray[np.int64], spec: RobotSpec) -> str:
    """What is wrong with the time of most steps, if it is; more play of that kind is no help."""
    if len(apart_ns) == 0:
        return ""
    median_ns = float(np.median(apart_ns))
    if abs(median_ns - spec.period_ns) <= TOLERANCE * spec.period_ns:
        return ""
    return (
        f"most of its steps are {median_ns * 1e-9:.3g} s apart by their t_ns, but rate_hz "
        f"{spec.rate_hz:g} of the spec means {spec.period_ns * 1e-9:.3g} s: give t_ns in "
        "nanoseconds, and record at the rate of the spec"
    )


def _latest(reader: PlayReader, spec: RobotSpec) -> list[EpisodeReader]:
    chosen: list[EpisodeReader] = []
    steps = 0
    mine = w_spec_sha256(spec)
    for info in reversed(reader.episodes()):
        if info.robot != spec.name or info.length == 0:
            continue
        try:
            episode = reader.open(info.id)
        except StoreError:
            # Deleted to make room since it was listed.
            continue
        if w_spec_sha256(episode.spec) == mine:
            chosen.append(episode)
            steps += info.length
        if steps >= LIVE_STEPS:
            break
    return chosen[::-1]


def _named(reader: PlayReader, spec: RobotSpec, wanted: Sequence[str]) -> list[EpisodeReader]:
    chosen = []
    for episode_id in dict.fromkeys(wanted):
        try:
            episode = reader.open(episode_id)
        except UnknownEpisode as error:
            raise EpisodeNotFound(f"{error}; GET /play lists what there is") from None
        if episode.spec.name != spec.name:
            raise EpisodeOfAnother(
                f"episode {episode_id} is of robot {episode.spec.name!r}, not of {spec.name!r}"
            )
        if differ := differing_fields(episode.spec, spec):
            raise EpisodeOfAnother(
                f"episode {episode_id} was recorded under another spec of {spec.name!r}, which "
                f"differs in {', '.join(differ)}; record play again"
            )
        chosen.append(episode)
    return chosen
