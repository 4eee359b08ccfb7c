"""One websocket that is opened when needed, and opened again after it broke."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, final

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
)
from websockets.frames import CloseCode

from client.endpoint import Endpoint
from client.errors import ClientError, Disconnected, ProtocolError, ServerProblem, ServerUnreachable
from client.websocket_connection import WebSocketConnection
from server.wire.codec import load_json, pack, unpack
from server.wire.problems import WireError, problem

T = TypeVar("T")

_BROKEN: Final = (ConnectionClosed, OSError)
_LARGEST_MESSAGE: Final = 64 * 2**20


class _StillStarting(Exception):
    """The server, or a proxy before it, answered the handshake with 502, 503 or 504."""


@final
class Socket:
    """A msgpack websocket of one server. Not for several threads at once, `close` excepted.

    Args:
        endpoint: The server.
        path: Route of the websocket.
        opened: Called with the socket each time it has been opened, to exchange first messages.
    """

    def __init__(self, endpoint: Endpoint, path: str, *, opened: Callable[[Socket], None]) -> None:
        self._endpoint, self._opened = endpoint, opened
        self._url = endpoint.websocket_url + path
        self._connection: WebSocketConnection | None = None
        self._is_closed = False

    def run(self, exchange: Callable[[Socket], T]) -> T:
        """Open if needed and call `exchange`; after a broken connection, both again.

        Raises:
            ServerUnreachable: The server could not be reached (again) within the patience.
            Disconnected: A reply did not come in time. Not tried again, and the connection is
                given up, so that the late reply cannot be taken for that of a later request.
            ServerProblem: The server refused the websocket, or a message as too large.
        """
        return self._endpoint.retry.run(
            lambda: self._attempt(exchange),
            retry_on=(*_BROKEN, _StillStarting),
            failed=lambda error, waited_s: ServerUnreachable(
                url=self._url, reason=_reason(error), waited_s=waited_s
            ),
        )

    def close(self) -> None:
        """Close for good. Safe from any thread, and twice; a call in flight then fails."""
        self._is_closed = True
        self._drop()

    def send(self, message: bytes) -> None:
        """Send one message already packed. Only from within `exchange` or `opened`."""
        self._live().send(message)

    def receive(self, *, timeout_s: float | None = None) -> Any:
        """The value of the next message. Only from within `exchange` or `opened`.

        Args:
            timeout_s: How long to wait; the endpoint's patience by default.

        Raises:
            Disconnected: No message came in time.
            ProtocolError: The message cannot be read.
        """
        limit_s = self._endpoint.timeout_s if timeout_s is None else timeout_s
        try:
            return _value(self._live().receive(limit_s))
        except TimeoutError as error:
            raise Disconnected(f"{self._url} sent no reply within {limit_s:g} s") from error

    def look(self) -> None:
        """Take what has arrived, for `poll`. Only from within `exchange` or `opened`."""
        self._live().look()

    def poll(self) -> Any | None:
        """The value of a message that had arrived at the last look, or None."""
        message = self._live().poll()
        return None if message is None else _value(message)

    def _attempt(self, exchange: Callable[[Socket], T]) -> T:
        if self._is_closed:
            raise Disconnected("this client has been closed")
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._opened(self)
            return exchange(self)
        except (*_BROKEN, Disconnected, ProtocolError) as error:
            self._drop()
            if isinstance(error, ConnectionClosed) and _is_too_large(error):
                raise _too_large(error) from error
            raise

    def _connect(self) -> WebSocketConnection:
        try:
            # Without compression: deflate costs 18 ms on a pair of raw 224 x 224 images.
            return WebSocketConnection(
                self._url, max_size=_LARGEST_MESSAGE, open_timeout_s=self._endpoint.timeout_s
            )
        except InvalidStatus as error:
            raise _refused(error, self._url) from error
        except InvalidMessage as error:
            # Also what is seen of a server that ends during the handshake.
            raise ConnectionError(str(error)) from error
        except InvalidHandshake as error:
            raise ProtocolError(f"{self._url} is no SelfAlign websocket: {error}") from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _live(self) -> WebSocketConnection:
        if self._connection is None:
            raise ConnectionError("the connection was closed")
        return self._connection


def packed(message: dict[str, Any]) -> bytes:
    """A message as bytes, without its members that are None."""
    return pack({name: value for name, value in message.items() if value is not None})


def _value(message: bytes | str) -> Any:
    try:
        return load_json(message) if isinstance(message, str) else unpack(message)
    except WireError as error:
        raise ProtocolError(f"the server's message cannot be read: {error}") from error


def _refused(error: InvalidStatus, url: str) -> ClientError | _StillStarting:
    status, body = error.response.status_code, error.response.body or b""
    if status in {502, 503, 504}:
        return _StillStarting(f"HTTP status {status}")
    try:
        return ServerProblem.from_body(load_json(bytes(body)), status=status)
    except WireError:
        return ProtocolError(f"{url} refused the websocket with HTTP status {status}")


def _is_too_large(error: ConnectionClosed) -> bool:
    return error.rcvd is not None and error.rcvd.code == CloseCode.MESSAGE_TOO_BIG


def _too_large(error: ConnectionClosed) -> ServerProblem:
    """What the same message is told over HTTP; to send it again would not help."""
    said = problem("body-too-large", error.rcvd.reason if error.rcvd else "")
    return ServerProblem.from_body(said.model_dump(), status=said.status)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
