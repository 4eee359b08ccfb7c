"""A refusal reaches a client that sends its whole body before it reads."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from server import unread
from server.unread import ReadFirst
from tests.fakes.listening import listening
from tests.fakes.running import make_runtime

if TYPE_CHECKING:
    from pathlib import Path

WAIT_S = 60
# More than the network holds on its way.
LARGE = bytes(32 * 2**20)


# Path, media type, host; what is answered.
REFUSED = [
    ("/act", "application/json", "127.0.0.1", 413, "body-too-large"),
    ("/act", "text/plain", "127.0.0.1", 415, "unsupported-media-type"),
    ("/w", "application/octet-stream", "127.0.0.1", 413, "body-too-large"),
    ("/nothing", "application/json", "127.0.0.1", 404, "not-found"),
    ("/act", "application/json", "evil.example", 421, "unknown-host"),
]


def test_a_large_request_is_told_why_it_is_refused(tmp_path: Path) -> None:
    with listening(make_runtime(tmp_path, max_body_bytes=2**20)) as address:
        for path, media_type, host, status, code in REFUSED:
            connection = http.client.HTTPConnection(address, timeout=WAIT_S)
            headers = {"content-type": media_type, "host": host, "connection": "close"}
            connection.request("POST", path, body=LARGE, headers=headers)
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["code"]) == (status, code)
            connection.close()


def refused(
    parts: list[dict[str, Any]], *, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> tuple[int, list[str]]:
    """An application that refuses without reading: messages left, types of what was sent."""
    left, sent = deque(parts), []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 415, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.popleft()

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "POST", "headers": list(headers)}
    asyncio.run(ReadFirst(app)(scope, receive, send))
    return len(left), sent


REPLY = ["http.response.start", "http.response.body"]
MORE = {"type": "http.request", "body": b"12345", "more_body": True}
LAST = {"type": "http.request", "body": b"", "more_body": False}


def test_the_body_is_taken_up_to_its_end_and_not_beyond() -> None:
    assert refused([MORE, MORE, LAST, {"type": "http.disconnect"}]) == (1, REPLY)


def test_a_client_that_has_gone_is_not_waited_for() -> None:
    assert refused([MORE, {"type": "http.disconnect"}, MORE]) == (1, REPLY)


def test_a_body_that_is_not_sent_before_100_continue_is_not_asked_for() -> None:
    assert refused([MORE, LAST], headers=((b"expect", b"100-continue"),)) == (2, REPLY)


def test_no_more_is_dropped_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "_MOST_BYTES", 10)
    assert refused([MORE] * 5) == (3, REPLY)


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "_PATIENCE_S", 0.01)
    assert refused([MORE]) == (0, REPLY)
