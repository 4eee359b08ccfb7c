"""A running server for the tests of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.running import make_runtime, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.testclient import TestClient

    from server.runtime import Runtime


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """A runtime for the robot `arm`."""
    return make_runtime(tmp_path)


@pytest.fixture
def client(runtime: Runtime) -> Iterator[TestClient]:
    """A client of a server that runs `runtime`."""
    with serving(runtime) as client:
        yield client
