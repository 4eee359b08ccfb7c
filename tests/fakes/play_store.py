"""A small play store, and what tests do to it."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from selfalign.data.play_store import PlayStore
from tests.fakes.play_steps import small_spec, step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selfalign.data.episode_reader import EpisodeInfo
    from selfalign.data.spec import RobotSpec

SPEC = small_spec()


def open_store(root: Path, **options: Any) -> PlayStore:
    """A store of blocks of four steps, with room enough."""
    defaults: dict[str, Any] = {"quota_bytes": 10**9, "min_free_bytes": 0, "block_steps": 4}
    return PlayStore(root, **{**defaults, **options})


def record(store: PlayStore, steps: int, *, start: int = 0, spec: RobotSpec = SPEC) -> EpisodeInfo:
    """Record and seal an episode of so many steps."""
    writer = store.start_episode(spec)
    for i in range(start, start + steps):
        writer.append(step(i, spec))
    return writer.seal()


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """Let the operating system refuse files beyond a size, as it refuses all on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
