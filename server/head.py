"""HEAD does wherever GET does: the same status and headers.

FastAPI's routes answer it with 405. Here it is passed on as a GET; the web server, which knows
better, leaves the body out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

_IS_HEAD: Final = "selfalign.is_head"


@final
class HeadAsGet:
    """ASGI middleware: routes see a GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. The scope is copied, since the web server goes by its own."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", _IS_HEAD: True}
        await self._app(scope, receive, send)


def is_head(request: Request) -> bool:
    """Whether the headers alone are asked for, so that a stream need not begin."""
    return _IS_HEAD in request.scope
