"""Where the server is and how patient to be with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, final
from urllib.parse import urlsplit, urlunsplit

from client.retry import Backoff

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


@final
@dataclass(frozen=True)
class Endpoint:
    """One server.

    Args:
        url: `http://host:port`; https, ws and wss work too, and a path before the routes.
        timeout_s: How long to wait for one reply.
        retry: How long to try to reach the server, and to reach it again after it was lost.

    Raises:
        ValueError: If the address is not of that form.
    """

    url: str = DEFAULT_URL
    timeout_s: float = 10.0
    retry: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise ValueError(f"{self.url!r} is not an address like {DEFAULT_URL}")

    @classmethod
    def of(cls, where: str | Endpoint) -> Endpoint:
        """An endpoint from an address, with the usual patience; an endpoint as it is."""
        return where if isinstance(where, Endpoint) else cls(where)

    @property
    def http_url(self) -> str:
        """The address for HTTP, without a slash at its end."""
        return self._with_scheme({"ws": "http", "wss": "https"})

    @property
    def websocket_url(self) -> str:
        """The address for websockets, without a slash at its end."""
        return self._with_scheme(_SCHEMES)

    def _with_scheme(self, schemes: dict[str, str]) -> str:
        parts = urlsplit(self.url)
        scheme = schemes.get(parts.scheme, parts.scheme)
        return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
