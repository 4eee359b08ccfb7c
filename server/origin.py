"""Pages of other sites may not command the robot through its operator's browser.

A browser sends `Origin` with every websocket and every request that changes something. The server
has no cookies and no password on loopback, so a foreign `Origin` is all that tells them apart. It
is compared with `Host`, which itself has to be a name of this server (`server/hosts.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

from server.problems import problem_response
from server.wire.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from server.hosts import AllowedHosts
    from server.wire.problems import Problem

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY_VIOLATION = 1008


@final
class SameOrigin:
    """ASGI middleware: refuses what a page of another host asks for.

    Args:
        app: what is protected.
        hosts: by which names the server may be called.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on, or refuse it: 421 `unknown-host` or 403 `cross-origin`."""
        found = self._problem(scope)
        if found is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await problem_response(found)(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": found.code})

    def _problem(self, scope: Scope) -> Problem | None:
        if scope["type"] not in ("http", "websocket"):
            return None
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._hosts.allows(host):
            return problem(
                "unknown-host",
                f"the Host header {host!r:.120} is no name of this server; call it by its address, "
                "or add the name to SELFALIGN_ALLOWED_HOSTS (--allowed-host NAME, * for any)",
            )
        origin = headers.get(b"origin")
        if origin is None or scope.get("method") in _SAFE_METHODS:
            return None
        if urlsplit(origin.decode("latin-1")).netloc == host:
            return None
        return problem("cross-origin", "the Origin header names another host than the Host header")
