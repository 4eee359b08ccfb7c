"""How the application meets the network: the socket, uvicorn's settings, and the end of both."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, final

import uvicorn

from server.direct_line import DirectProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from server.settings import Settings


class StartError(Exception):
    """The server cannot start; the message says why, in one line."""


@final
class DrainServer(uvicorn.Server):
    """Uvicorn that says so when it is told to stop, and greets when it has started."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, greet: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._greet = greet

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then greet."""
        await super().startup(sockets)
        if not self.should_exit:
            self._greet()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Tell the streams first: uvicorn waits for them before the application learns of it."""
        self._app.state.drain.begin()
        super().handle_exit(sig, frame)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        StartError: the address cannot be used, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"host {host!r} cannot be used: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose others with --host or --port"
        ) from None
    return listener


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the application: one worker, no compression, an end to every shutdown."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws=DirectProtocol,
        log_config=None,
        access_log=False,
        # it logs every connection at info
        log_level="debug" if settings.log_level == "debug" else "warning",
        ws_max_size=settings.max_body_bytes,
        ws_per_message_deflate=False,
        # A controller may be busy for a while, and asks over one connection for hours.
        ws_ping_timeout=60.0,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        server_header=False,
    )
