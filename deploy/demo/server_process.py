"""A policy server in a process of its own, with data that goes when it goes."""

from __future__ import annotations

import ctypes
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, final

import server

_LISTENS: Final = re.compile(r"listens on (http://\S+)")
_START_LIMIT_S: Final = 300.0
_STOP_LIMIT_S: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1


class ServerNotStarted(Exception):
    """The server ended, or said nothing, before it listened."""


@final
class ServerProcess:
    """`python -m server` on a free port. A context manager; leaving it ends every process of it.

    Args:
        model: The model to serve, a directory or a Hub id; the shipped one if None.
        arguments: More arguments of `python -m server`.
    """

    def __init__(self, *, model: str | None = None, arguments: tuple[str, ...] = ()) -> None:
        chosen: tuple[str, ...] = ()
        if model is not None:
            chosen = ("--model", str(Path(model).resolve()) if Path(model).exists() else model)
        self._arguments = (*chosen, *arguments)
        self._directory = tempfile.TemporaryDirectory(
            prefix="selfalign-demo-", ignore_cleanup_errors=True
        )
        self._log = Path(self._directory.name) / "server.log"
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.greeting: list[str] = []

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def log_tail(self) -> str:
        """Its last lines, ready to be put after a message; nothing if it has logged nothing."""
        lines = self.log.strip().splitlines()[-8:]
        return ":\n  " + "\n  ".join(lines) if lines else ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        command = [sys.executable, "-m", "server", "--port", "0", "--host", "127.0.0.1"]
        command += ["--data-dir", str(Path(self._directory.name) / "data"), *self._arguments]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                cwd=Path(server.__file__).parents[1],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # A group of its own: Ctrl-C is for the demonstration, which then ends the group.
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509 - one system call, no locks
            )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        self.url = self._address()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def _address(self) -> str:
        while True:
            try:
                line = self._lines.get(timeout=_START_LIMIT_S)
            except queue.Empty:
                raise ServerNotStarted(
                    f"the server said nothing for {_START_LIMIT_S:g} s{self.log_tail}"
                ) from None
            if line is None:
                raise ServerNotStarted(f"the server ended at once{self.log_tail}")
            self.greeting.append(line)
            found = _LISTENS.search(line)
            if found:
                return found.group(1)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            # The group has the id of its first process, which is not yet waited for.
            _signal_group(process, signal.SIGTERM)
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _signal_group(process, signal.SIGKILL)
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
        self._directory.cleanup()


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        # Everything of it has ended already.
        return


def _end_with(parent: int) -> Callable[[], None] | None:
    """What makes a child end when its parent is killed outright. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return arrange
