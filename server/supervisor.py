"""Keep one helper process running: start it, hear it, notice that it hangs, start it again.

One thread a process does everything, and lives as long as the supervisor: the kernel's
parent-death signal goes by the thread that spawned, so that thread must not end early.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, final

from server.child import MAX_MESSAGE_BYTES
from server.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_CRASH_WINDOW_S = 600.0

Message = dict[str, Any]


class HelperProcess(Protocol):
    """What owners ask of their helper process: a `Supervisor`, or a fake in tests."""

    def start(self) -> None:
        """Begin to start the process."""

    def send(self, message: Message) -> bool:
        """Send a message. False where none runs."""

    def close(self, *, at_once: bool = False) -> None:
        """End the process. Blocking. With `at_once`, one that is still starting is killed."""

    def healthy(self) -> Message:
        """Return its state."""


@final
@dataclass(frozen=True)
class ChildSpec:
    """What to run and how to look after it.

    `target` is "module:function"; the function gets a `server.child.Link` and `config`.
    `descriptors` are kept open for the child. A child without a heartbeat for `hang_s` is killed.
    With `dies_at_once` the parent's death kills it; else it gets SIGTERM and may finish.
    """

    name: str
    target: str
    config: Message = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    nice: int = 0
    hang_s: float = 120.0
    stop_s: float = 10.0
    backoff_s: tuple[float, ...] = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
    dies_at_once: bool = True


@final
@dataclass(frozen=True)
class _Running:
    process: subprocess.Popen[bytes]
    connection: Connection


@final
class Supervisor:
    """Owns one helper process.

    Args:
        spec: What to run.
        on_message: Called with each message, in the supervisor's thread.
        on_exit: Called with the reason whenever the process ended without being asked to.
        on_start: Called when a process has been started, before its first message.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        on_message: Callable[[Message], None],
        on_exit: Callable[[str], None] = lambda reason: None,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self._on_message = on_message
        self._on_exit = on_exit
        self._on_start = on_start
        self._heartbeat = Heartbeat.create()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = threading.Event()
        self._spare_starting = True
        self._has_spoken = False
        self._send_lock = threading.Lock()
        self._running: _Running | None = None
        self._crashes: deque[float] = deque(maxlen=32)
        self._restarts = 0
        self._last_exit: str | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"supervise-{spec.name}", daemon=True
        )

    def start(self) -> None:
        """Begin: the process comes up in the background."""
        self._thread.start()

    def send(self, message: Message) -> bool:
        """Send a message to the process. Returns False where none is running."""
        data = json.dumps(message).encode()
        with self._send_lock:
            if self._running is None:
                return False
            try:
                self._running.connection.send_bytes(data)
            except OSError:
                return False
        return True

    def close(self, *, at_once: bool = False) -> None:
        """Ask the process to leave, wait, then make it leave. Idempotent.

        Args:
            at_once: One that is still starting has nothing to finish, and is killed.
        """
        if not self._stopping.is_set():
            self._spare_starting = not at_once
            self._stopping.set()
            os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join()
        if self._wake >= 0:
            self._heartbeat.close()
            os.close(self._wake)
            self._wake = -1

    @property
    def pid(self) -> int | None:
        """Process id, or None while none is running."""
        running = self._running
        return None if running is None else running.process.pid

    def healthy(self) -> Message:
        """Return what an operator wants to know about the process."""
        running = self._running is not None
        return {
            "running": running,
            "pid": self.pid,
            "restarts": self._restarts,
            "heartbeat_age_s": round(self._heartbeat.age_s(), 3) if running else None,
            "last_exit": self._last_exit,
        }

    # The supervisor's thread.

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                running = self._spawn()
            except OSError as error:
                self._died(f"could not be started: {error}")
                continue
            reason = self._watch(running)
            if reason:
                # Before the lock: whoever waits for room in its pipe has that.
                running.process.kill()
            with self._send_lock:
                self._running = None
            self._reap(running, grace_s=0.0 if reason else self.spec.stop_s)
            if self._stopping.is_set():
                break
            self._died(reason or _describe_exit(running.process.returncode))

    def _died(self, reason: str) -> None:
        logger.warning("%s ended: %s", self.spec.name, reason)
        self._last_exit = reason
        self._restarts += 1
        self._call(self._on_exit, reason)
        self._pause()

    def _spawn(self) -> _Running:
        ours, theirs = Pipe()
        self._heartbeat.beat()
        given = {
            "parent": os.getpid(),
            "pipe": theirs.fileno(),
            "beat": self._heartbeat.descriptor,
            "nice": self.spec.nice,
            "kill": self.spec.dies_at_once,
            "log_level": logging.getLogger().getEffectiveLevel(),
            "config": self.spec.config,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "server.child", self.spec.target],
            env=_environment(given) | self.spec.environment,
            pass_fds=(theirs.fileno(), self._heartbeat.descriptor, *self.spec.descriptors),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        theirs.close()
        self._has_spoken = False
        running = _Running(process, ours)
        with self._send_lock:
            self._running = running
        self._call(self._on_start)
        return running

    def _watch(self, running: _Running) -> str | None:
        """Pass messages on until the process ends or is told to. Returns why it was killed."""
        asked_to_stop = False
        deadline = 0.0
        while True:
            ready = wait([running.connection, *([] if asked_to_stop else [self._wake])], 1.0)
            if running.connection in ready and not self._receive(running):
                return None
            if self._stopping.is_set() and not asked_to_stop:
                asked_to_stop = True
                deadline = time.monotonic() + self.spec.stop_s
                if not (self._has_spoken or self._spare_starting):
                    return "was still starting when asked to stop"
                self.send({"type": "exit"})
            if asked_to_stop and time.monotonic() > deadline:
                return "did not stop when asked"
            if not asked_to_stop and self._heartbeat.age_s() > self.spec.hang_s:
                return f"no sign of life for {self.spec.hang_s:g} s, killed"

    def _receive(self, running: _Running) -> bool:
        try:
            message = json.loads(running.connection.recv_bytes(MAX_MESSAGE_BYTES))
        except (EOFError, OSError):
            return False
        except ValueError:
            logger.exception("%s sent something that is not JSON", self.spec.name)
            return True
        self._has_spoken = True
        self._call(self._on_message, message)
        return True

    def _reap(self, running: _Running, *, grace_s: float) -> None:
        """Make sure the process is gone: by itself within `grace_s`, or killed."""
        running.connection.close()
        try:
            running.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            running.process.send_signal(signal.SIGKILL)
            running.process.wait()

    def _pause(self) -> None:
        """Wait before the next start, longer after each crash of the last ten minutes."""
        now = time.monotonic()
        self._crashes.append(now)
        recent = sum(now - crash < _CRASH_WINDOW_S for crash in self._crashes)
        steps = self.spec.backoff_s
        self._stopping.wait(steps[min(recent, len(steps)) - 1])

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            # A failure to handle a message must not end the watch over the process.
            logger.exception("%s: %s failed", self.spec.name, callback)


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


def _environment(given: Message) -> dict[str, str]:
    """The child's environment: one thread per library, our packages importable."""
    paths = [str(_PACKAGE_ROOT), *filter(None, sys.path)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "SELFALIGN_CHILD": json.dumps(given),
    }
