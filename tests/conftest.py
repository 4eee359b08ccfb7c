"""What every test runs under: no hub, off-screen drawing, small pools, no process left behind."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import psutil
import pytest


def _children() -> list[psutil.Process]:
    """Processes that the tests started and that still run, multiprocessing's own tracker apart."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.is_running()
        and child.status() != psutil.STATUS_ZOMBIE
        and "resource_tracker" not in " ".join(child.cmdline())
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run that leaves processes behind, and end them."""
    _, alive = psutil.wait_procs(_children(), timeout=5)
    for process in alive:
        print(f"\nleft behind by the tests: pid {process.pid}: {' '.join(process.cmdline())[:200]}")
        process.kill()
    if alive:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
