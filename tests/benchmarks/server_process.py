"""The server under test, `python -m server` with a data folder of its own, and calls to it."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from deploy.demo.server_process import ServerProcess as Process

_RUNNING = {"queued", "running", "gating"}
_ROLES = ("server", "worker", "recorder")
_IDLE_SHARE = 0.05


class ServerProcess:
    """A running server and an HTTP connection to it. A context manager.

    Args:
        model: The model to serve; that of the environment, else the shipped one, if None.
        arguments: More arguments of `python -m server`.
    """

    def __init__(self, *, model: str | None = None, arguments: tuple[str, ...] = ()) -> None:
        self._process = Process(model=model, arguments=("--log-level", "warning", *arguments))
        self.http = httpx.Client(timeout=60.0, trust_env=False)

    def __enter__(self) -> Self:
        self._process.__enter__()
        self.http.base_url = self._process.url
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"the server's log{self._process.log_tail or ' is empty'}")
        self.http.close()
        self._process.__exit__(kind, error, trace)

    @property
    def websocket_url(self) -> str:
        """Where it listens, for websockets."""
        return self._process.url.replace("http://", "ws://", 1)

    def processes(self) -> dict[str, psutil.Process]:
        """The server's processes by what they are: `server`, `worker`, `recorder`."""
        main = psutil.Process(self._process.pid)
        found = {"server": main}
        for child in main.children(recursive=True):
            command = " ".join(child.cmdline())
            found |= {role: child for role in _ROLES[1:] if f"server.{role}:" in command}
        return found

    def cpu_by_role_s(self) -> dict[str, float]:
        """Processor time that each of the server's processes has used so far [s]."""
        return {role: sum(p.cpu_times()[:2]) for role, p in self.processes().items()}

    def cpu_s(self) -> float:
        """Processor time that all the server's processes have used so far [s]."""
        return sum(self.cpu_by_role_s().values())

    def settle(self, *, within_s: float = 60.0) -> None:
        """Wait until the helper processes have come up and nothing computes any more."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            before_s = self.cpu_s()
            time.sleep(1.0)
            if len(self.processes()) == len(_ROLES) and self.cpu_s() - before_s < _IDLE_SHARE:
                return
        raise RuntimeError(f"the server was still busy after {within_s} s: {self.processes()}")

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of a GET."""
        return _body(self.http.get(path, params=params))

    def post(self, path: str, body: object = None) -> Any:
        """The JSON of a POST of JSON."""
        return _body(self.http.post(path, json=body))

    def wait_for_session(self, session: str, *, within_s: float = 120.0) -> Any:
        """An alignment session once it will not change any more."""
        deadline = time.monotonic() + within_s
        while (state := self.get(f"/align/{session}"))["state"] in _RUNNING:
            if time.monotonic() > deadline:
                raise RuntimeError(f"session {session} did not end within {within_s} s: {state}")
            time.sleep(0.1)
        return state


def _body(reply: httpx.Response) -> Any:
    if reply.is_error:
        request = reply.request
        raise RuntimeError(f"{request.method} {request.url}: {reply.status_code}: {reply.text}")
    return reply.json()
