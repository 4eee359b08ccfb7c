"""Batches in the order of training, read one ahead by a thread.

Shape key: n slots of one part.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

import numpy as np
import torch

from selfalign.pretrain.batches import SlotBatch, draw_batch, slot_generators
from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.pool import Pool, Visit
from selfalign.pretrain.processes import Processes
from selfalign.pretrain.stage1 import canonical_share
from selfalign.pretrain.stage1_data import E, TrainingData

T = TypeVar("T")


@final
@dataclass(frozen=True, eq=False)
class Part(Generic[E]):
    """One micro-batch: places `rows` [n] of a visit's slots, and their batch.

    `is_last` says that no further part of this visit is for this process.
    """

    visit: Visit[E]
    rows: range
    batch: SlotBatch
    is_last: bool


def parts(
    pool: Pool[E], data: TrainingData[E], processes: Processes, config: Stage1Config, seed: int,
    start: int,
) -> Iterator[Part[E]]:  # fmt: skip
    """Plan the visits from iteration `start` on; gives this process's parts of each, in order."""
    for iteration in range(start, config.iterations):
        share = canonical_share(config, iteration / config.iterations)
        visit = pool.visit(pool.choose(), share)
        rngs = slot_generators(seed, iteration, visit.slots)
        mine = processes.share(len(visit.slots))
        cut = [p for p in np.array_split(np.array(mine), config.accumulate) if len(p)]
        for number, places in enumerate(cut):
            rows = range(int(places[0]), int(places[-1]) + 1)
            chosen = [visit.embodiments[row] for row in rows]
            batch = draw_batch(data, chosen, [rngs[row] for row in rows], config)
            yield Part(visit, rows, batch, number == len(cut) - 1)


@final
class ReadAhead(Generic[T]):
    """The items of an iterator; while one is in use, a thread makes the next.

    The iterator runs in that thread alone, one item at a time, so nothing is made that differs from
    what plain iteration gives. Its errors are raised where the item would have come.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        # The number of threads of one operation is a setting of each thread.
        self._thread = ThreadPoolExecutor(
            1, "read-ahead", torch.set_num_threads, (torch.get_num_threads(),)
        )
        self._coming: Future[Any] = self._submit()

    def __iter__(self) -> "ReadAhead[T]":
        return self

    def __next__(self) -> T:
        """The next item; starts on the one after it."""
        item = self._coming.result()
        if item is _END:
            self.close()
            raise StopIteration
        self._coming = self._submit()
        return item

    def close(self) -> None:
        """End the thread; waits for the item that it is making."""
        self._thread.shutdown(cancel_futures=True)

    def _submit(self) -> "Future[Any]":
        return self._thread.submit(next, self._items, _END)


_END = object()
