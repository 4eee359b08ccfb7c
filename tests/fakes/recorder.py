"""A recorder for a CPU that does what a CUDA graph does: the same operations on the same memory.

What Python decided while it recorded is not asked again. So an argument that was not copied into
its buffer, or a number that went into the recording, shows as a wrong result.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selfalign.model.static_call import Recording


class Tape(TorchDispatchMode):
    """Writes down every operation with the tensors that it read and made."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Do it all again, results going to the memory of the first time."""
        with torch.no_grad():
            for func, args, kwargs, first in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(first), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class TapeRecorder:
    """Records on tapes, and counts them."""

    def __init__(self) -> None:
        self.recordings = 0

    def __call__(self, run: Callable[[], Tensor]) -> Recording:
        """Record what `run` does."""
        self.recordings += 1
        with Tape() as tape:
            result = run()
        # Memory that nobody has written yet must not look right.
        result.fill_(torch.nan)
        return Recording(tape.replay, result)
