"""Functions that torch.compile makes faster, where this machine can compile."""

import logging
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, final

import torch

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Backend = str | Callable[..., Any]


@final
class Compiled(Generic[P, R]):
    """A function compiled at its first call, whole and for fixed shapes.

    Tensors are inputs: another W, another observation, another time do not compile again, another
    shape does. Without a compiler, or where compiling fails, the function runs as it is; the log
    says so once.
    """

    def __init__(self, function: Callable[P, R], backend: Backend = "inductor") -> None:
        self._plain = function
        self._call: Callable[P, R] = torch.compile(
            function, fullgraph=True, dynamic=False, backend=backend
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result."""
        if self._call is self._plain:
            return self._plain(*args, **kwargs)
        try:
            return self._call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - any compiler's error; an own one comes again
            result = self._plain(*args, **kwargs)
            reason = " ".join(str(error).split())[:300]
            logger.warning("runs without torch.compile: %s: %s", type(error).__name__, reason)
            self._call = self._plain
            return result
