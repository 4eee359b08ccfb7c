"""Parts of a recording, made by several processes. What they make does not depend on how many."""

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from selfalign.errors import StoreError

# Each takes 400 MB, and the disk does not get faster by more of them.
_MOST_JOBS = 16


class Part(Protocol):
    """One part: so many things, and what makes them. It travels to another process."""

    def __len__(self) -> int:
        """Number of things."""

    def record(self) -> Any:
        """Make them; what is returned travels back."""


P = TypeVar("P", bound=Part)


def run_parts(parts: Sequence[P], jobs: int | None, what: str) -> Iterator[tuple[P, Any]]:
    """Every part with what its `record` returned, as they end; in this process if `jobs` is 1.

    `jobs` None takes the cores that this process may use. Raises StoreError when a process dies.
    """
    jobs = min(jobs or len(os.sched_getaffinity(0)), _MOST_JOBS, len(parts))
    total = sum(len(part) for part in parts)
    with tqdm(total=total, desc=what, mininterval=5) as bar, closing(_made(parts, jobs)) as made:
        for part, result in made:
            bar.update(len(part))
            yield part, result


def _made(parts: Sequence[P], jobs: int) -> Generator[tuple[P, Any]]:
    if jobs <= 1:
        yield from ((part, part.record()) for part in parts)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start) as pool:
        futures = {pool.submit(part.record): part for part in parts}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise StoreError(
                "a process that recorded was killed (for memory?); start again, and it goes on "
                "from what is there"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _start() -> None:
    # The one that is interrupted ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
