"""Play stores with play in them."""

from pathlib import Path

from selfalign.data.play_store import PlayStore
from selfalign.data.spec import RobotSpec
from tests.fakes.play_steps import small_spec, step

QUOTA_BYTES = 1 << 30


def open_store(root: Path) -> PlayStore:
    """The writing side of a store with plenty of room."""
    return PlayStore(root, quota_bytes=QUOTA_BYTES, min_free_bytes=0)


def record(root: Path, *lengths: int, spec: RobotSpec | None = None) -> list[str]:
    """Record sealed episodes of these lengths; their ids."""
    ids = []
    with open_store(root) as store:
        for length in lengths:
            writer = store.start_episode(spec or small_spec())
            for index in range(length):
                writer.append(step(index, writer.spec))
            writer.seal()
            ids.append(writer.id)
    return ids
