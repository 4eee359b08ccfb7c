"""Devices by name, and that on a CPU nothing of a GPU is asked for."""

from contextlib import nullcontext

import pytest
import torch

from selfalign.errors import ModelError
from selfalign.model.device import checked_device, finish, side_stream, upload, use_urgent_stream

CPU = torch.device("cpu")


def test_the_cpu_is_here() -> None:
    assert checked_device("cpu") == CPU


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gpu", "'gpu' is no device; expected cpu, cuda or cuda:N"),
        ("cuda:99", "device 'cuda:99' is not here: torch sees"),
        ("meta", "device 'meta' is not supported"),
    ],
)
def test_other_devices_are_refused(name: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        checked_device(name)


def test_on_a_cpu_nothing_is_copied_and_no_stream_is_made() -> None:
    tensor = torch.ones(3)
    assert upload(tensor, CPU) is tensor
    assert isinstance(side_stream(CPU), nullcontext)
    use_urgent_stream(CPU)
    finish(CPU)
