"""A real server, `python -m server`, in a process and a data folder of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

ROOT = Path(__file__).parents[2]
STARTS_WITHIN_S = 120.0


class ServerProcess:
    """The server under test, on a free port of the loopback. A context manager."""

    def __init__(self, **settings: str) -> None:
        """Name the settings that differ from the defaults: `queue_depth="32"` and the like."""
        self._folder = tempfile.TemporaryDirectory(prefix="selfalign-bench-")
        self._log = Path(self._folder.name) / "server.log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.http = httpx.Client(base_url=self.url, timeout=60.0, trust_env=False)

    @property
    def url(self) -> str:
        """Where it listens, for HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        """Where it listens, for websockets."""
        return f"ws://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        environment = os.environ | {
            "SELFALIGN_HOST": "127.0.0.1",
            "SELFALIGN_PORT": str(self.port),
            "SELFALIGN_DATA_DIR": str(Path(self._folder.name) / "data"),
            "SELFALIGN_LOG_LEVEL": "warning",
            **{f"SELFALIGN_{name.upper()}": value for name, value in self._settings.items()},
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ask it to stop, then make it; no process outlives this call."""
        self.http.close()
        if self._process is not None:
            family = [*psutil.Process(self._process.pid).children(recursive=True)]
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for child in family:
                if child.is_running():
                    child.kill()
            self._process = None
        self._folder.cleanup()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"the server ended with status {self._process.returncode}:\n{self.log_tail()}"
                )
            try:
                if self.http.get("/readyz").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the server was not ready in {STARTS_WITHIN_S} s:\n{self.log_tail()}")

    def log_tail(self, lines: int = 30) -> str:
        """The last lines it printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def processes(self) -> dict[str, psutil.Process]:
        """The server's processes by what they are: `server`, `worker`, `recorder`."""
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        found = {"server": main}
        for child in main.children(recursive=True):
            name = " ".join(child.cmdline())
            for role in ("worker", "recorder"):
                if role in name:
                    found[role] = child
        return found

    def cpu_s(self) -> float:
        """Processor time that the server and all its children have used so far [s]."""
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        family = [main, *main.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in family)

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of a GET."""
        return self.http.get(path, params=params).raise_for_status().json()

    def post(self, path: str, body: object = None) -> Any:
        """The JSON of a POST of JSON."""
        reply = self.http.post(path, json=body)
        if reply.is_error:
            raise RuntimeError(f"POST {path}: {reply.status_code}: {reply.text[:400]}")
        return reply.json()

    def wait_for_session(self, session: str, *, within_s: float = 120.0) -> Any:
        """An alignment session once it will not change any more."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            state = self.get(f"/align/{session}")
            if state["state"] not in {"queued", "running", "gating"}:
                return state
            time.sleep(0.1)
        raise RuntimeError(f"session {session} did not end within {within_s} s: {state}")


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
