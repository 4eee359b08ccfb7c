"""HTTP with back-off, and every refusal as an exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, final

import httpx

from client.endpoint import Endpoint
from client.errors import ClientError, Disconnected, ServerProblem, ServerUnreachable
from client.replies import error_body, value_of

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@final
class HttpTransport:
    """A pool of connections to one server. Close it when done.

    Proxies named in the environment are ignored: a robot's server is on its own network.

    Args:
        endpoint: The server.
        transport: What carries the requests; a mock in tests.
    """

    def __init__(self, endpoint: Endpoint, *, transport: httpx.BaseTransport | None = None) -> None:
        self._endpoint = endpoint
        self._http = httpx.Client(
            base_url=endpoint.http_url,
            timeout=endpoint.timeout_s,
            transport=transport,
            trust_env=False,
        )

    @property
    def endpoint(self) -> Endpoint:
        """The server."""
        return self._endpoint

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        is_repeatable: bool | None = None,
    ) -> httpx.Response:
        """Send one request and return a reply below 400.

        Args:
            method: GET, POST, ...
            path: Route, from the root of the server.
            params: Query; members that are None are left out.
            json: A body to send as JSON.
            content: A body to send as it is.
            headers: More headers.
            is_repeatable: Whether it may be sent again after it got lost; by default if a GET.

        Raises:
            ServerUnreachable: No connection within the endpoint's patience.
            Disconnected: The connection broke, or no reply in time.
            ServerProblem: The server refused.
        """
        repeat = method == "GET" if is_repeatable is None else is_repeatable
        query = {name: value for name, value in (params or {}).items() if value is not None}
        request = self._http.build_request(
            method, path, params=query or None, json=json, content=content, headers=headers
        )
        return self._retrying(lambda: self._send(request), repeat=repeat)

    @contextmanager
    def stream(self, path: str, *, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """A GET whose reply is read as it comes, without a limit on its length in time.

        Raises:
            As `request`, also while the reply is read.
        """
        # The server sends a comment at least every 15 s; four missed ones are silence.
        timeout = httpx.Timeout(self._endpoint.timeout_s, read=60.0)
        request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
        response = self._retrying(lambda: self._send(request, stream=True), repeat=True)
        try:
            yield response
        except httpx.TransportError as error:
            raise Disconnected(f"the stream {path} broke: {_reason(error)}") from error
        finally:
            response.close()

    def _retrying(self, send: Callable[[], httpx.Response], *, repeat: bool) -> httpx.Response:
        lost = (httpx.NetworkError, httpx.RemoteProtocolError) if repeat else ()
        try:
            return self._endpoint.retry.run(
                send, retry_on=(*_NOT_SENT, *lost), failed=self._given_up
            )
        except httpx.TransportError as error:
            raise self._given_up(error, 0.0) from error

    def _given_up(self, error: Exception, waited_s: float) -> ClientError:
        if isinstance(error, _NOT_SENT):
            return ServerUnreachable(
                url=self._endpoint.http_url, reason=_reason(error), waited_s=waited_s
            )
        if isinstance(error, httpx.TimeoutException):
            return Disconnected(f"no reply within {self._endpoint.timeout_s:g} s")
        return Disconnected(f"the connection broke before the reply: {_reason(error)}")

    def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        response = self._http.send(request, stream=stream)
        if response.status_code < 400:
            return response
        content = response.read()
        response.close()
        body = error_body(response.headers.get("content-type", ""), content)
        raise ServerProblem.from_body(body, status=response.status_code)


def read_body(response: httpx.Response) -> Any:
    """The value of a reply in JSON or msgpack.

    Raises:
        ProtocolError: It is neither.
    """
    kind = response.headers.get("content-type", "")
    return value_of(kind, response.content, url=str(response.url))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
