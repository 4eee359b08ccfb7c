"""The processes that share one training run: which slots are whose, and sums over all of them.

Every process holds trunk, optimiser and pool whole and takes the same steps. Only the losses of an
iteration are shared out; their gradients are summed, so that all stay equal.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from selfalign.errors import ModelError

if TYPE_CHECKING:
    from accelerate import Accelerator

# The others wait while the first one records, trains the prefix and fills caches.
_PATIENCE = timedelta(days=2)


@final
class Processes:
    """This process among its run's. Without an accelerator it is alone, on the CPU."""

    def __init__(self, accelerator: "Accelerator | None" = None) -> None:
        self._accelerator = accelerator
        self.count: int = 1 if accelerator is None else accelerator.num_processes
        self.index: int = 0 if accelerator is None else accelerator.process_index
        self.device = torch.device("cpu") if accelerator is None else accelerator.device

    @classmethod
    def launched(cls) -> "Processes":
        """As `accelerate launch` or `torchrun` started this process; alone if neither did.

        Raises ModelError where accelerate is not installed.
        """
        try:
            from accelerate import Accelerator, InitProcessGroupKwargs
        except ImportError:
            raise ModelError(
                "accelerate is not installed; get it with: pip install 'selfalign-server[train]'"
            ) from None
        return cls(Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)]))

    @property
    def is_first(self) -> bool:
        """Whether this process writes: log, checkpoints, caches."""
        return self.index == 0

    def share(self, count: int) -> range:
        """This process's part of `count` things; parts differ by one at most.

        Raises ModelError where some process would get nothing.
        """
        if count < self.count:
            raise ModelError(
                f"{count} slots of an iteration cannot be shared by {self.count} processes; raise "
                "slots_per_iteration or start fewer processes"
            )
        return range(self.index * count // self.count, (self.index + 1) * count // self.count)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors by their sums over all processes, in one message.

        Every process gets the same bits.
        """
        if self._accelerator is None or self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        summed: Tensor = self._accelerator.reduce(flat, "sum")
        parts = summed.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """End the group of processes."""
        if self._accelerator is not None:
            self._accelerator.end_training()
