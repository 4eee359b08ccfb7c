"""A function of tensors, recorded once over buffers of its own and replayed with other numbers.

On a GPU the thousands of small kernels of a chunk cost more to launch than to run. A CUDA graph
launches them all at once, but reads and writes fixed memory. So every argument, W among them, is
copied into a buffer first: a swap of W records nothing.

`record_cuda_graph` has not run on a GPU yet. What surrounds it is tested on a CPU with a recorder
that replays the operations of PyTorch over the same memory (tests/fakes/recorder.py).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Before a graph is recorded, libraries choose kernels and take their workspaces.
_WARM_UPS = 3

# Sets of shapes that are recorded; each keeps the memory of its intermediate results.
_MOST = 8


@final
@dataclass(frozen=True)
class Recording:
    """Recorded work: `replay` does it again and leaves the outcome in `result`."""

    replay: Callable[[], None]
    result: Tensor


# Runs a function of no arguments, whose inputs lie in fixed memory, and records what it does.
Recorder = Callable[[Callable[[], Tensor]], Recording]


@final
class StaticCall:
    """One recorded function. Use it from one thread.

    Args:
        function: Of tensors, which must decide nothing by their numbers.
        like: Arguments of the shapes, types and device that all calls will have.
        record: `record_cuda_graph`, or a fake in tests.
    """

    def __init__(
        self, function: Callable[..., Tensor], like: tuple[Tensor, ...], record: Recorder
    ) -> None:
        self._given = tuple(tensor.clone() for tensor in like)
        self._recording = record(lambda: function(*self._given))

    def __call__(self, *given: Tensor) -> Tensor:
        """The function's result, in memory of its own. Raises ValueError for other shapes."""
        for buffer, tensor in zip(self._given, given, strict=True):
            if buffer.shape != tensor.shape:
                raise ValueError(f"recorded for {tuple(buffer.shape)}, not {tuple(tensor.shape)}")
            buffer.copy_(tensor, non_blocking=True)
        self._recording.replay()
        return self._recording.result.clone()


@final
class StaticCalls:
    """A function recorded once for each set of shapes that it is called with.

    Where recording fails, or there are too many shapes, it runs as it is; the log says so once.
    Use it from one thread.
    """

    def __init__(self, function: Callable[..., Tensor], record: Recorder | None) -> None:
        self._function, self._record = function, record
        self._calls: dict[tuple[torch.Size, ...], StaticCall] = {}

    def __call__(self, *given: Tensor) -> Tensor:
        """The function's result."""
        shapes = tuple(tensor.shape for tensor in given)
        call = self._calls.get(shapes) or self._recorded(shapes, given)
        return self._function(*given) if call is None else call(*given)

    def _recorded(
        self, shapes: tuple[torch.Size, ...], given: tuple[Tensor, ...]
    ) -> StaticCall | None:
        if self._record is None:
            return None
        if len(self._calls) == _MOST:
            logger.warning("chunks of %d shapes are recorded; others run as they are", _MOST)
            self._record = None
            return None
        try:
            with torch.inference_mode(mode=False), torch.no_grad():
                call = StaticCall(self._function, given, self._record)
        except Exception as error:  # noqa: BLE001 - any driver's error; an own one comes again
            reason = " ".join(str(error).split())[:300]
            logger.warning("chunks are not recorded: %s: %s", type(error).__name__, reason)
            self._record = None
            return None
        self._calls[shapes] = call
        return call


def record_cuda_graph(run: Callable[[], Tensor]) -> Recording:
    """Record as a CUDA graph, to be replayed in whatever stream is current then.

    Other threads may use the GPU meanwhile (`thread_local`): alignment does.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    return Recording(graph.replay, result)
