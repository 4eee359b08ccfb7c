"""The recorder in a thread of the test: all of it but the process, and started in no time."""

from __future__ import annotations

import json
import threading
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any

from server.child import Link
from server.heartbeat import Heartbeat
from server.recorder import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.supervisor import ChildSpec


class ThreadRecorder:
    """Stands in for the `server.supervisor.Supervisor` of the recorder."""

    def __init__(
        self,
        spec: ChildSpec,
        *,
        on_message: Callable[[dict[str, Any]], None],
        on_exit: Callable[[str], None],
        on_start: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._on_message = on_message
        self._on_start = on_start
        self._ours, theirs = Pipe()
        self._link = Link(theirs, Heartbeat.create())
        self._threads = [
            threading.Thread(target=self._record, daemon=True),
            threading.Thread(target=self._listen, daemon=True),
        ]
        self._theirs = theirs
        self._is_started = False

    def start(self) -> None:
        self._is_started = True
        self._on_start()
        for thread in self._threads:
            thread.start()

    def send(self, message: dict[str, Any]) -> bool:
        if not self._is_started or self._ours.closed:
            return False
        try:
            self._ours.send_bytes(json.dumps(message).encode())
        except OSError:
            return False
        return True

    def close(self, *, at_once: bool = False) -> None:
        if not self._ours.closed:
            self.send({"type": "exit"})
            for thread in self._threads:
                if thread.is_alive():
                    thread.join()
            self._ours.close()

    def healthy(self) -> dict[str, Any]:
        return {"running": True}

    def _record(self) -> None:
        try:
            record(self._link, self._spec.config)
        finally:
            self._theirs.close()

    def _listen(self) -> None:
        while True:
            try:
                message = json.loads(self._ours.recv_bytes())
            except (EOFError, OSError):
                return
            self._on_message(message)
