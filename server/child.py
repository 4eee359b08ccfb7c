"""How a helper process of the server begins: niced, tied to its parent, then its own main.

Run as `python -m server.child MODULE:FUNCTION`. The parent passes in the environment the
descriptors of the pipe, of the shared memory (the heartbeat) and its own process id. Nothing heavy
is imported before the process is niced, so that starting it does not disturb the server.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, final

from server.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_LOWEST = 19
MAX_MESSAGE_BYTES = 16 * 2**20


@final
class Link:
    """The child's end of the pipe: whole messages as JSON, and the heartbeat."""

    def __init__(self, connection: Connection, heartbeat: Heartbeat) -> None:
        self._connection = connection
        self._heartbeat = heartbeat

    @property
    def descriptor(self) -> int:
        """What to wait on for a message."""
        return self._connection.fileno()

    def beat(self) -> None:
        """Say that the main loop is alive."""
        self._heartbeat.beat()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message. Raises OSError when the server is gone."""
        self._connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        """Wait for one message. Raises EOFError when the server is gone."""
        try:
            message: dict[str, Any] = json.loads(self._connection.recv_bytes(MAX_MESSAGE_BYTES))
        except ConnectionError:
            raise EOFError from None
        return message

    def poll(self, timeout_s: float = 0.0) -> bool:
        """Return whether a message (or the end of the pipe) waits."""
        try:
            return self._connection.poll(timeout_s)
        except ConnectionError:
            return True


def die_with_parent(parent: int, how: int) -> None:
    """Ask the kernel to signal this process when its parent dies; leave now if it already did."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
    # Not retroactive. The parent may be process 1 of a container, so compare, do not test for 1.
    if os.getppid() != parent:
        sys.exit(0)


def lower_priority(nice: int) -> None:
    """Make this process `nice`; at 19, the lowest, it runs only where nothing else wants to.

    Niceness alone lets a process that wakes up wait for the slice of a nicer one to end, and takes
    that one's core for busy. Linux's idle policy does neither, and it needs no rights.
    """
    reached = os.nice(nice)
    if reached >= _LOWEST and hasattr(os, "SCHED_IDLE"):
        # A container may forbid the call; niceness is what is left then.
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main(argv: list[str] | None = None) -> None:
    """Start as a helper process and run the function named by the only argument."""
    (target,) = sys.argv[1:] if argv is None else argv
    given = json.loads(os.environ.pop("SELFALIGN_CHILD"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(given["parent"], signal.SIGKILL if given["kill"] else signal.SIGTERM)
    lower_priority(given["nice"])
    logging.basicConfig(
        level=given["log_level"], format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    link = Link(Connection(given["pipe"]), Heartbeat(given["beat"]))
    module, _, function = target.partition(":")
    run: Callable[[Link, dict[str, Any]], None] = getattr(importlib.import_module(module), function)
    status: object = 0
    try:
        run(link, given["config"])
    except SystemExit as request:
        status = request.code
    _leave(status if isinstance(status, int) else int(status is not None))


def _leave(status: int) -> None:
    """End now: tearing down an interpreter full of torch takes longer than there is to gain."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
