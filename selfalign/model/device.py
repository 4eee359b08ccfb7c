"""Devices: which there are, how numbers get there, and whose work goes first on a GPU.

No part of this project has run on a GPU yet; the tests marked `gpu` wait for one.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from selfalign.errors import ModelError

# Lower is more urgent; 0 is what every other stream has.
_URGENT = -1


def checked_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ModelError: there is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"{name!r} is no device; expected cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ModelError(f"device {name!r} is not here: torch sees {count} CUDA devices")
    elif device.type != "cpu":
        raise ModelError(f"device {name!r} is not supported; expected cpu, cuda or cuda:N")
    return device


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device. From the host to a GPU through page-locked memory, without waiting.

    The page-locked copy may be dropped: its allocator keeps it until the stream has read it.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def use_urgent_stream(device: torch.device) -> None:
    """From now on this thread's work on a GPU goes before that of other streams."""
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device, priority=_URGENT))


def side_stream(device: torch.device) -> AbstractContextManager[object]:
    """Work beside that of other threads on a GPU, behind it where both want the same units.

    Frozen weights may be read: they were copied before `load_policy` returned. What is made here
    goes to another stream only through host memory (`.cpu()` waits for it).
    """
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


def finish(device: torch.device) -> None:
    """Wait until what this thread has asked of a GPU is done, so that other streams may read it."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
