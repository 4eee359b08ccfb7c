"""A reply is not lost because its request was not read.

A refusal may be known before the body is: wrong type, too large, unknown host. If the connection
ends with bytes unread, the network resets it, and a client that sends all before it reads sees a
broken connection instead of what was wrong.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from starlette.datastructures import Headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_BYTES: Final = 2**28
_PATIENCE_S: Final = 5.0


@final
class ReadFirst:
    """ASGI middleware: takes the rest of a request's body, and drops it, before a reply begins.

    A client that waits for `100 Continue` has not sent its body and gets the reply at once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; at most 256 MiB and five seconds are spent on what nobody reads."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        body = _Body(receive)

        async def answer(message: Message) -> None:
            begins = message["type"] == "http.response.start"
            if begins and not body.is_read and "expect" not in Headers(scope=scope):
                await body.drop_rest()
            await send(message)

        await self._app(scope, body.receive, answer)


@final
class _Body:
    """Knows whether the body of one request has been read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_read = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.is_read = not message.get("more_body", False)
        return message

    async def drop_rest(self) -> None:
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                while not self.is_read and dropped < _MOST_BYTES:
                    dropped += len((await self.receive()).get("body", b""))
