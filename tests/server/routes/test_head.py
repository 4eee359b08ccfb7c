"""HEAD does where GET does: the same status and headers, and no body. On a real port."""

from __future__ import annotations

from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from server.app import create_app
from tests.fakes.listening import listening
from tests.fakes.operated import operated_runtime, record_play
from tests.fakes.running import make_runtime, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from server.runtime import Runtime

FILE = "application/vnd.safetensors"
# Of /metrics and /info the content changes from one request to the next.
SAME = ("content-type", "content-length", "etag", "cache-control", "vary", "content-disposition")
CHANGING = ("content-type",)


@contextmanager
def connected(runtime: Runtime) -> Iterator[HTTPConnection]:
    with listening(runtime) as address:
        connection = HTTPConnection(address, timeout=60)
        try:
            yield connection
        finally:
            connection.close()


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTTPConnection]:
    with connected(make_runtime(tmp_path_factory.mktemp("server"))) as made:
        yield made


def asked(connection: HTTPConnection, verb: str, path: str, **headers: str) -> Any:
    """The response, read to its end: bytes left over would spoil the next one."""
    connection.request(verb, path, headers={"Host": "localhost", **headers})
    response = connection.getresponse()
    body = response.read()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, body


@pytest.mark.parametrize("accept", ["application/json", FILE])
@pytest.mark.parametrize(
    ("path", "compared"),
    [
        ("/", SAME),
        ("/docs", SAME),
        ("/openapi.json", SAME),
        ("/healthz", SAME),
        ("/readyz", SAME),
        ("/problems/store-full", SAME),
        ("/metrics", CHANGING),
        ("/info", CHANGING),
        ("/play", CHANGING),
        ("/align", SAME),
        ("/robots", SAME),
        ("/w", SAME),
        ("/w/0", SAME),
        ("/w/77", SAME),
    ],
)
def test_head_has_the_headers_of_get_and_no_body(
    connection: HTTPConnection, path: str, compared: tuple[str, ...], accept: str
) -> None:
    status, headers, body = asked(connection, "HEAD", path, Accept=accept)
    wanted_status, wanted, _ = asked(connection, "GET", path, Accept=accept)

    assert (status, body) == (wanted_status, b"")
    assert {k: headers.get(k) for k in compared} == {k: wanted.get(k) for k in compared}


def test_head_of_a_version_tells_its_hash(connection: HTTPConnection) -> None:
    etag = asked(connection, "HEAD", "/w/0", Accept=FILE)[1]["etag"]
    listed = asked(connection, "GET", "/w")[2].decode()
    assert etag.strip('"') in listed
    assert asked(connection, "HEAD", "/w/0", Accept=FILE, **{"If-None-Match": etag})[0] == 304


@pytest.mark.parametrize("path", ["/act", "/w/rollback", "/play/delete"])
def test_head_is_refused_where_get_is(connection: HTTPConnection, path: str) -> None:
    refused = asked(connection, "HEAD", path)
    assert refused[0] == asked(connection, "GET", path)[0] in (405, 422)
    assert refused[1]["content-type"] == "application/problem+json"


def test_head_of_a_session_s_events_does_not_wait_for_its_end(tmp_path: Path) -> None:
    runtime = operated_runtime(tmp_path)
    with serving(runtime) as client:
        record_play(client, 60)
        session = client.post("/align", json={"budget": {"steps": 100_000}}).json()["id"]
        response = client.head(f"/align/{session}/events")
        assert response.headers["content-type"].startswith("text/event-stream")
        assert client.get(f"/align/{session}").json()["state"] in ("queued", "running")
        assert client.head("/align/nope/events").status_code == 404
        client.post(f"/align/{session}/stop")


def test_the_document_lists_what_is_asked_for_only(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path)
    document = create_app(runtime.settings, runtime).openapi()
    assert not [path for path, verbs in document["paths"].items() if "head" in verbs]
