"""Pages of other sites may not command the robot through its operator's browser.

A browser sends `Origin` with every websocket and every request that changes something. The server
has no cookies and no password on loopback, so a foreign `Origin` is all that tells them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

from server.problems import problem_response
from server.wire.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY_VIOLATION = 1008


@final
class SameOrigin:
    """ASGI middleware: refuses what a page of another host asks for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on, or refuse it with 403 `cross-origin`."""
        if not _is_foreign(scope):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send(
                {"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": "cross-origin"}
            )
            return
        found = problem("cross-origin", "the Origin header names another host than the Host header")
        await problem_response(found)(scope, receive, send)


def _is_foreign(scope: Scope) -> bool:
    if scope["type"] not in ("http", "websocket") or scope.get("method") in _SAFE_METHODS:
        return False
    headers = {name: value for name, value in scope["headers"] if name in (b"origin", b"host")}
    if b"origin" not in headers:
        return False
    origin = headers[b"origin"].decode("latin-1")
    return urlsplit(origin).netloc != headers.get(b"host", b"").decode("latin-1")
