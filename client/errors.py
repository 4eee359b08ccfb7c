"""What can go wrong between a robot and the server. Every exception derives from `ClientError`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_TRANSIENT_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})


class ClientError(Exception):
    """Any failure of a call to the server."""


class ServerUnreachable(ClientError):
    """No connection could be made within the time allowed for it."""

    def __init__(self, *, url: str, reason: str, waited_s: float = 0.0) -> None:
        tried = f" (tried for {waited_s:.1f} s)" if waited_s >= 0.1 else ""
        super().__init__(
            f"no SelfAlign server answers at {url}{tried}: {reason}; "
            "start one with `make serve` or `python -m server`, or pass another address with --url"
        )
        self.url, self.reason, self.waited_s = url, reason, waited_s


class Disconnected(ClientError):
    """The connection broke or the server kept silent after a request had been sent."""


class ProtocolError(ClientError):
    """The server's answer is not what its protocol promises; usually another kind of server."""


class ServerProblem(ClientError):
    """The server refused a request and said why (RFC 9457 problem details)."""

    def __init__(self, *, code: str, title: str, detail: str, status: int) -> None:
        said = f"{title}: {detail}" if detail and detail != title else title
        super().__init__(f"{said} [{code}, {status}]")
        self.code, self.title, self.detail, self.status = code, title, detail, status

    @classmethod
    def from_body(cls, body: object, *, status: int = 500) -> ServerProblem:
        """Build from the parsed body of an error reply, whatever it holds.

        Args:
            body: What the reply carried; a mapping with the members of RFC 9457 if all is well.
            status: HTTP status of the reply, used where the body does not repeat it.
        """
        fields: Mapping[str, object] = body if isinstance(body, Mapping) else {}
        stated = fields.get("status")
        return cls(
            code=str(fields.get("code") or "unknown"),
            title=str(fields.get("title") or f"HTTP status {status}"),
            detail=str(fields.get("detail") or ("" if fields else body or "")),
            status=stated if isinstance(stated, int) else status,
        )

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later without any change to it."""
        return self.status in _TRANSIENT_STATUS
