"""The demonstration as a process: it runs to its last line, and leaves nothing when interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.demo.server_process import ServerNotStarted, ServerProcess


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_server_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(ServerNotStarted, match="invalid choice: 'shouting'"),
        ServerProcess(arguments=("--log-level", "shouting")),
    ):
        pass


def test_an_interrupted_demonstration_leaves_no_processes(
    dummy_model_dir: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-u", "-m", "deploy.demo", "--model", str(dummy_model_dir)]
    command += ["--episodes", "200", "--output", str(tmp_path / "demo.png")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        # The greeting: the server runs.
        assert "listens on" in demo.stdout.readline()
        (server,) = children_of(demo.pid)
        processes = group_members(server)
        assert server in processes
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not [pid for pid in processes if is_running(pid)]


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def group_members(group: int) -> list[int]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(directory.name)) == group:
                found.append(int(directory.name))
        except ProcessLookupError:
            continue
    return found
