"""What a running server holds, and how it is closed."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from selfalign.errors import ModelError
from selfalign.model.checkpoint import save_policy
from server.runtime import load_runtime
from server.settings import Settings
from tests.fakes.models import random_policy
from tests.fakes.running import make_runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S = 60


class Part:
    """A part of the server that closes as the test says."""

    def __init__(self, close: Callable[[], Any]) -> None:
        self.close = close


def test_the_helpers_are_stopped_at_the_same_time(tmp_path: Path) -> None:
    runtime: Any = make_runtime(tmp_path)
    meeting = threading.Barrier(2)
    # Each end waits for the other: one after the other would break the barrier.
    runtime.sessions = Part(lambda: meeting.wait(WAIT_S))
    runtime.ingest = Part(lambda: meeting.wait(WAIT_S))

    asyncio.run(runtime.close())

    assert not meeting.broken


def test_a_part_that_fails_to_close_leaves_nothing_locked(tmp_path: Path) -> None:
    runtime: Any = make_runtime(tmp_path)
    closed: list[str] = []

    def fail() -> None:
        raise OSError("disk gone")

    runtime.sessions = Part(fail)
    runtime.ingest = Part(lambda: closed.append("ingest"))
    with pytest.raises(OSError, match="disk gone"):
        asyncio.run(runtime.close())

    assert closed == ["ingest"]
    asyncio.run(make_runtime(tmp_path).close())  # the data folder is free


def test_settings_decide_precision_device_and_what_sessions_keep(tmp_path: Path) -> None:
    save_policy(random_policy(), tmp_path / "model")
    given = Settings(
        model_dir=tmp_path / "model",
        data_dir=tmp_path / "data",
        dtype="bfloat16",
        cuda_graphs=True,
        prefix_memory_bytes=1000,
        prefix_disk_bytes=2000,
        align_micro_batch=4,
        align_checkpointing=True,
    )
    runtime: Any = load_runtime(given)
    try:
        assert runtime.policy.dtype == torch.bfloat16
        assert runtime.policy.base_w().W1.dtype == torch.float32
        # There are no CUDA graphs on a CPU.
        assert runtime.policy._record is None
        config = runtime.sessions._config
        assert (config.prefix_memory_bytes, config.prefix_disk_bytes) == (1000, 2000)
        assert config.alignment.micro_batch == 4
        assert config.gradient_checkpointing
    finally:
        asyncio.run(runtime.close())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_device_that_is_not_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'cuda' is not here"):
        load_runtime(Settings(data_dir=tmp_path / "data", device="cuda"))
