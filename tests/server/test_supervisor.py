"""The supervisor: real processes, since processes are the point."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.supervisor import ChildSpec, Supervisor

TIMEOUT_S = 120.0
ECHO = "tests.fakes.children:echo"


class Heard:
    """What a supervisor reported, as queues that a test can wait on."""

    def __init__(self) -> None:
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.exits: queue.Queue[str] = queue.Queue()

    def message(self) -> dict[str, Any]:
        return self.messages.get(timeout=TIMEOUT_S)

    def exit(self) -> str:
        return self.exits.get(timeout=TIMEOUT_S)


Launch = Callable[..., tuple[Supervisor, Heard]]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    running: list[Supervisor] = []

    def start(target: str = ECHO, **changes: Any) -> tuple[Supervisor, Heard]:
        heard = Heard()
        config = {"note": str(tmp_path / "note")}
        spec = ChildSpec("child", target, config, backoff_s=(0.01,), **changes)
        supervisor = Supervisor(spec, on_message=heard.messages.put, on_exit=heard.exits.put)
        supervisor.start()
        running.append(supervisor)
        return supervisor, heard

    yield start
    for supervisor in running:
        supervisor.close()


def gone(pid: int) -> bool:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_child_is_niced_single_threaded_and_hears_messages(launch: Launch) -> None:
    supervisor, heard = launch(nice=19)
    ready = heard.message()
    assert (ready["nice"], ready["omp"], ready["torch"]) == (19, "1", False)
    assert ready["pid"] == supervisor.pid
    assert supervisor.send({"type": "x", "n": 1})
    assert heard.message() == {"type": "echo", "message": {"type": "x", "n": 1}}


def test_close_ends_the_child_and_is_idempotent(launch: Launch) -> None:
    supervisor, heard = launch()
    pid = heard.message()["pid"]
    supervisor.close()
    supervisor.close()
    assert gone(pid)
    assert heard.exits.empty()
    assert not supervisor.send({"type": "x"})


@pytest.mark.parametrize("at_once", [True, False])
def test_child_that_is_still_starting_can_be_killed_at_once(launch: Launch, at_once: bool) -> None:
    supervisor, heard = launch("tests.fakes.children:start_slowly", stop_s=1.0)
    while supervisor.pid is None:
        time.sleep(0.01)
    pid = supervisor.pid
    start_s = time.monotonic()
    supervisor.close(at_once=at_once)
    assert gone(pid)
    if not at_once:
        assert time.monotonic() - start_s >= 1.0
    assert heard.messages.empty()


def test_killed_child_is_reported_and_started_again(launch: Launch) -> None:
    supervisor, heard = launch()
    first = heard.message()["pid"]
    os.kill(first, signal.SIGKILL)
    assert heard.exit() == "killed by SIGKILL"
    assert heard.message()["pid"] != first
    assert supervisor.healthy()["restarts"] == 1


def test_exit_status_is_reported_and_crashes_are_not_the_end(launch: Launch) -> None:
    _, heard = launch("tests.fakes.children:die_at_once")
    assert [heard.exit(), heard.exit()] == ["exit status 3"] * 2


def test_a_hanging_child_is_killed_although_somebody_waits_to_send_to_it(launch: Launch) -> None:
    supervisor, heard = launch(hang_s=3.0)
    heard.message()
    supervisor.send({"type": "hang"})
    # More than a pipe holds.
    sender = threading.Thread(target=supervisor.send, args=({"type": "x" * 2**20},), daemon=True)
    sender.start()
    assert "no sign of life" in heard.exit()
    sender.join(TIMEOUT_S)
    assert heard.message()["pid"] == supervisor.pid


def test_hanging_child_is_killed_and_started_again(launch: Launch) -> None:
    supervisor, heard = launch(hang_s=3.0)
    heard.message()
    supervisor.send({"type": "hang"})
    assert "no sign of life" in heard.exit()
    assert heard.message()["type"] == "ready"


def test_child_that_ignores_the_request_to_stop_is_killed(launch: Launch) -> None:
    supervisor, heard = launch(stop_s=0.5)
    pid = heard.message()["pid"]
    supervisor.send({"type": "hang"})
    supervisor.close()
    assert gone(pid)


@pytest.mark.parametrize("at_once", [True, False])
def test_child_does_not_outlive_a_killed_server(tmp_path: Path, at_once: bool) -> None:
    code = (
        "import sys, time; from server.supervisor import ChildSpec, Supervisor;"
        f"spec = ChildSpec('c', '{ECHO}', {{'note': sys.argv[1]}}, dies_at_once={at_once});"
        "s = Supervisor(spec, on_message=lambda m: print(m.get('pid'), flush=True)); s.start();"
        "time.sleep(600)"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "note")], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        child = int(server.stdout.readline())
    finally:
        server.kill()
        server.wait(TIMEOUT_S)
        server.stdout.close()
    assert gone(child)


def held() -> tuple[int, list[str], int]:
    """Descriptors, named shared memory of ours, children."""
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    names = [path.name for path in Path("/dev/shm").iterdir() if "selfalign" in path.name]
    return descriptors, names, len(psutil.Process().children())


def test_starting_and_closing_leaks_nothing(launch: Launch) -> None:
    before = held()
    for _ in range(2):
        supervisor, heard = launch()
        heard.message()
        supervisor.close()
    assert held() == before
