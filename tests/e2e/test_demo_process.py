"""The demonstration as a process: it runs to its last line, and leaves nothing when interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.demo.server_process import ServerNotStarted, ServerProcess


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
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # The end of recorder and worker is watched where a whole loop runs; this saves their start.
        env=os.environ | {"SELFALIGN_PRESTART": "0"},
    ) as demo:
        assert demo.stdout is not None
        # The greeting: the server runs.
        assert "listens on" in demo.stdout.readline()
        (server,) = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not server.is_running()
