"""One kept-alive HTTP connection for what a robot asks for many times a second.

httpx offers more than a controller needs, at a millisecond of processor time a request; this is
the standard library's connection with the same patience and the same refusals.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, final
from urllib.parse import urlsplit

from client.endpoint import Endpoint
from client.errors import ClientError, Disconnected, ServerProblem, ServerUnreachable
from client.replies import error_body

_LOST: Final = (ConnectionError, http.client.HTTPException)
_BROKEN: Final = (OSError, http.client.HTTPException)

# Status, media type and content.
_Reply = tuple[int, str, bytes]


class _NotConnected(Exception):
    """No connection could be made; the cause says why."""


@final
class PostConnection:
    """Posts bodies to one route. Not for several threads at once, `close` excepted.

    Opens when first used. A request whose connection broke is sent again: only for requests that
    may be repeated. Proxies named in the environment are ignored.

    Args:
        endpoint: The server.
        path: The route.
        headers: Sent with every body.
    """

    def __init__(self, endpoint: Endpoint, path: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(endpoint.http_url)
        is_secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
        assert parts.hostname is not None
        self._endpoint = endpoint
        self.url = endpoint.http_url + path
        self._path = parts.path + path
        self._headers = dict(headers)
        self._connection = kind(parts.hostname, parts.port, timeout=endpoint.timeout_s)
        self._is_closed = False
        self._busy = threading.Lock()

    def post(self, body: bytes) -> tuple[str, bytes]:
        """Media type and content of the reply to one body.

        Raises:
            ServerUnreachable: No connection within the endpoint's patience.
            Disconnected: The connection broke, or no reply in time.
            ServerProblem: The server refused.
        """
        status, kind, content = self._endpoint.retry.run(
            lambda: self._attempt(body), retry_on=(_NotConnected, *_BROKEN), failed=self._given_up
        )
        if status >= 400:
            raise ServerProblem.from_body(error_body(kind, content), status=status)
        return kind, content

    def close(self) -> None:
        """Close for good. Safe from any thread, and twice; a call in flight then fails."""
        self._is_closed = True
        stream = self._connection.sock
        if not self._busy.acquire(blocking=False):
            # Wakes the thread that waits for a reply.
            with suppress(OSError, AttributeError):
                stream.shutdown(socket.SHUT_RDWR)
            self._busy.acquire()
        self._connection.close()
        self._busy.release()

    def _attempt(self, body: bytes) -> _Reply:
        try:
            if self._connection.sock is not None:
                # The server ends a connection that was idle for long; that is no reason to wait.
                with suppress(*_LOST):
                    return self._exchange(body)
            return self._exchange(body)
        except TimeoutError as error:
            raise Disconnected(f"no reply within {self._endpoint.timeout_s:g} s") from error

    def _exchange(self, body: bytes) -> _Reply:
        connection = self._connection
        with self._busy:
            if self._is_closed:
                raise Disconnected("this client has been closed")
            try:
                if connection.sock is None:
                    self._connect()
                connection.request("POST", self._path, body=body, headers=self._headers)
                response = connection.getresponse()
                content = response.read()
            except BaseException:
                connection.close()
                raise
        return response.status, response.headers.get("content-type", ""), content

    def _connect(self) -> None:
        try:
            self._connection.connect()
        except OSError as error:
            raise _NotConnected(str(error) or type(error).__name__) from error

    def _given_up(self, error: Exception, waited_s: float) -> ClientError:
        if isinstance(error, _NotConnected):
            return ServerUnreachable(
                url=self._endpoint.http_url, reason=str(error), waited_s=waited_s
            )
        reason = str(error) or type(error).__name__
        return Disconnected(f"the connection broke before the reply: {reason}")
