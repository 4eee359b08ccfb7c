"""List, fetch, send and switch versions of W."""

from __future__ import annotations

import hashlib
from typing import Final, final

from client.errors import ProtocolError
from client.http_transport import HttpTransport, read_body
from client.replies import checked
from server.wire.operator import SnapshotInfo, SnapshotList, SwapReply

SAFETENSORS_MEDIA_TYPE: Final = "application/vnd.safetensors"


@final
class WCommands:
    """`/w`. Each robot has versions of its own; 0 is the base."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    def list(self, *, robot: str | None = None) -> SnapshotList:
        """All versions of a robot, and which one is active."""
        reply = self._http.request("GET", "/w", params={"robot": robot})
        return checked(SnapshotList, read_body(reply))

    def get(self, version: int, *, robot: str | None = None) -> SnapshotInfo:
        """What is known of one version."""
        reply = self._http.request(
            "GET", f"/w/{version}", params={"robot": robot}, headers={"accept": "application/json"}
        )
        return checked(SnapshotInfo, read_body(reply))

    def download(self, version: int, *, robot: str | None = None) -> bytes:
        """One version as a safetensors file.

        Raises:
            ProtocolError: What arrived is not what the server's hash says.
        """
        reply = self._http.request(
            "GET",
            f"/w/{version}",
            params={"robot": robot},
            headers={"accept": SAFETENSORS_MEDIA_TYPE},
        )
        stated = reply.headers.get("etag", "").strip('"')
        found = hashlib.sha256(reply.content).hexdigest()
        if stated != found:
            raise ProtocolError(
                f"version {version} arrived with sha256 {found}, the server says {stated or 'none'}"
            )
        return reply.content

    def upload(
        self, data: bytes, *, robot: str | None = None, activate: bool = False
    ) -> SnapshotInfo:
        """Add a version from a safetensors file, made on the same base model for this robot's spec.

        Raises:
            ServerProblem: `bad-snapshot`, `wrong-base` or `wrong-spec`, saying why.
        """
        reply = self._http.request(
            "POST",
            "/w",
            params={"robot": robot, "activate": "true" if activate else None},
            content=data,
            headers={"content-type": SAFETENSORS_MEDIA_TYPE},
        )
        return checked(SnapshotInfo, read_body(reply))

    def activate(self, version: int, *, robot: str | None = None) -> SwapReply:
        """Serve this version from the next request on."""
        reply = self._http.request(
            "POST", f"/w/{version}/activate", params={"robot": robot}, is_repeatable=True
        )
        return checked(SwapReply, read_body(reply))

    def rollback(self, *, robot: str | None = None) -> SwapReply:
        """Serve the version that was active before."""
        return checked(
            SwapReply,
            read_body(self._http.request("POST", "/w/rollback", params={"robot": robot})),
        )
