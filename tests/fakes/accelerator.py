"""Processes of one training run, played by threads that meet at a barrier."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from selfalign.pretrain.processes import Processes


class Meeting:
    """Where the threads of a run meet and add up what they bring."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.brought: list[Tensor | None] = [None] * count
        self.barrier = threading.Barrier(count, timeout=30)

    def total(self, index: int, tensor: Tensor) -> Tensor:
        self.brought[index] = tensor
        self.barrier.wait()
        total = torch.stack([part for part in self.brought if part is not None]).sum(0)
        self.barrier.wait()
        return total


class FakeAccelerator:
    """What `Processes` asks of accelerate's Accelerator."""

    device = torch.device("cpu")

    def __init__(self, meeting: Meeting, index: int) -> None:
        self.num_processes, self.process_index = meeting.count, index
        self._meeting = meeting

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        return self._meeting.total(self.process_index, tensor)

    def wait_for_everyone(self) -> None:
        self._meeting.barrier.wait()

    def end_training(self) -> None:
        self.wait_for_everyone()


def together(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """Run `work` in `count` processes of one run, each a thread; their results in order."""
    meeting = Meeting(count)

    def one(index: int) -> Any:
        try:
            accelerator: Any = FakeAccelerator(meeting, index)
            return work(Processes(accelerator))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(count) as threads:
        return [future.result() for future in [threads.submit(one, i) for i in range(count)]]
