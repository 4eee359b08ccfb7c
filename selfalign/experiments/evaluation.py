"""All robots of some cells, in one process or several; what is cached is not run again."""

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from selfalign.experiments.cells import Cell
from selfalign.experiments.methods import check_methods
from selfalign.experiments.records import RecordFile, RobotRecord
from selfalign.experiments.settings import Settings, digest
from selfalign.experiments.trial import Trials
from selfalign.model.checkpoint import load_policy


@final
@dataclass(frozen=True)
class Task:
    """One robot of one cell, still to be run."""

    cell: Cell
    settings: Settings
    index: int


def evaluate(
    model: Path,
    work: Sequence[tuple[Cell, Settings]],
    cache: Path,
    *,
    jobs: int = 1,
    begun: Callable[[int, int], None] = lambda done, total: None,
    ended: Callable[[Task, RobotRecord], None] = lambda task, record: None,
) -> list[list[RobotRecord]]:
    """Run all robots of each cell and return their records, cell by cell in order of index.

    Args:
        model: A model directory.
        work: Cells with the settings of each.
        cache: Where records are kept.
        jobs: Processes, each with one thread.
        begun: Called once with the robots that are cached and all robots.
        ended: Called after each robot.
    """
    for _, settings in work:
        check_methods(settings.methods, bc_model=settings.bc_model)
    files = [RecordFile(cache, digest(model, cell, settings)) for cell, settings in work]
    records = [
        {i: r for i, r in file.read().items() if i < settings.robots}
        for file, (_, settings) in zip(files, work, strict=True)
    ]
    missing = [
        (number, Task(cell, settings, index))
        for number, (cell, settings) in enumerate(work)
        for index in range(settings.robots)
        if index not in records[number]
    ]
    total = sum(settings.robots for _, settings in work)
    begun(total - len(missing), total)
    with closing(_run(model, missing, jobs)) as results:
        for number, task, record in results:
            files[number].append(record)
            records[number][task.index] = record
            ended(task, record)
    return [[found[index] for index in sorted(found)] for found in records]


def _run(
    model: Path, missing: Sequence[tuple[int, Task]], jobs: int
) -> Generator[tuple[int, Task, RobotRecord]]:
    if not missing:
        return
    if jobs == 1:
        torch.set_num_threads(1)
        with Trials(load_policy(model)) as trials:
            for number, task in missing:
                yield number, task, trials.run(task.cell, task.settings, task.index)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (model,)) as pool:
        futures = {pool.submit(_run_in_worker, task): (number, task) for number, task in missing}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_EXCEPTION, timeout=1.0)
                for future in done:
                    yield (*futures[future], future.result())
        finally:
            pool.shutdown(cancel_futures=True)


_worker: list[Trials] = []


def _start_worker(model: Path) -> None:
    torch.set_num_threads(1)
    _worker.append(Trials(load_policy(model)))


def _run_in_worker(task: Task) -> RobotRecord:
    return _worker[0].run(task.cell, task.settings, task.index)
