"""What a running server holds, and how it is closed."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

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
