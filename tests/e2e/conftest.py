"""A real server with a small random policy, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.demo.server_process import ServerProcess
from selfalign.model.checkpoint import make_dummy_policy, save_policy


@pytest.fixture(scope="session")
def dummy_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dummy-model")
    save_policy(make_dummy_policy(0), directory)
    return directory


@pytest.fixture(scope="session")
def server_process(dummy_model_dir: Path) -> Iterator[ServerProcess]:
    arguments = ("--log-level", "warning")
    with ServerProcess(model=str(dummy_model_dir), arguments=arguments) as process:
        yield process
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    # Server, recorder and align worker.
    assert len(family) == 3
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
