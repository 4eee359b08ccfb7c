"""Posting over one kept-alive connection, in good times and bad."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from client import (
    Backoff,
    Disconnected,
    Endpoint,
    ProtocolError,
    RobotClient,
    ServerProblem,
    ServerUnreachable,
)
from client.post_connection import PostConnection
from server.wire.codec import pack, unpack
from server.wire.problems import problem
from tests.fakes.wire_server import act_reply

QUICK = Backoff(first_s=0.01, longest_s=0.02, give_up_after_s=30)
ONCE = Backoff(give_up_after_s=0)
MSGPACK = "application/msgpack"


class Handler(BaseHTTPRequestHandler):
    """Answers each POST as the test says; counts connections and requests."""

    protocol_version = "HTTP/1.1"
    answer: Callable[[Handler, bytes], None]
    connections: list[int]
    requests: list[dict[str, str]]

    def setup(self) -> None:
        super().setup()
        self.connections.append(1)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.requests.append({"path": self.path, **dict(self.headers.items())})
        type(self).answer(self, body)

    def reply(self, content: bytes, *, status: int = 200, kind: str = MSGPACK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class QuietServer(ThreadingHTTPServer):
    """Says nothing of connections that a test breaks."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def http_server(answer: Callable[[Handler, bytes], None]) -> Iterator[tuple[str, type[Handler]]]:
    """Serve POST with `answer`; yields the address and the handler with its counts."""
    counts = {"answer": answer, "connections": [], "requests": []}
    handler = type("CountingHandler", (Handler,), counts)
    with QuietServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()
            thread.join()


def posts(url: str, **patience: Any) -> PostConnection:
    return PostConnection(Endpoint(url, **patience), "/act", {"content-type": MSGPACK})


def value(connection: PostConnection, sent: object) -> Any:
    """The value of the reply to a value."""
    return unpack(connection.post(pack(sent))[1])


def double(handler: Handler, body: bytes) -> None:
    handler.reply(pack(2 * unpack(body)))


def test_one_connection_serves_many_posts_below_any_path() -> None:
    with http_server(double) as (url, handler):
        connection = posts(url + "/robots/a/")
        assert [value(connection, n) for n in range(3)] == [0, 2, 4]
        connection.close()
    assert len(handler.connections) == 1
    assert handler.requests[0]["path"] == "/robots/a/act"
    assert handler.requests[0]["content-type"] == MSGPACK


def test_a_connection_that_the_server_ended_is_opened_again_without_waiting() -> None:
    def once(handler: Handler, body: bytes) -> None:
        double(handler, body)
        # As a server does whose patience with an idle connection is over: it says nothing.
        handler.close_connection = True

    with http_server(once) as (url, handler):
        connection = posts(url, retry=ONCE)
        assert [value(connection, n) for n in range(3)] == [0, 2, 4]
        connection.close()
    assert len(handler.connections) == 3


def test_a_request_that_got_lost_is_sent_again() -> None:
    def lose_two(handler: Handler, body: bytes) -> None:
        if len(handler.requests) < 3:
            handler.close_connection = True
            return
        double(handler, body)

    with http_server(lose_two) as (url, _):
        connection = posts(url, retry=QUICK)
        assert value(connection, 4) == 8
        connection.close()


def test_without_patience_a_lost_request_says_so() -> None:
    def lose(handler: Handler, body: bytes) -> None:
        handler.close_connection = True

    with http_server(lose) as (url, _):
        connection = posts(url, retry=ONCE)
        with pytest.raises(Disconnected, match="broke before the reply"):
            connection.post(pack(1))
        connection.close()


def test_silence_is_a_disconnection_and_the_late_reply_is_nobody_elses() -> None:
    release = threading.Event()

    def slow(handler: Handler, body: bytes) -> None:
        if unpack(body) == 1:
            release.wait(30)
        double(handler, body)

    with http_server(slow) as (url, _):
        connection = posts(url, timeout_s=0.2)
        with pytest.raises(Disconnected, match=r"no reply within 0\.2 s"):
            connection.post(pack(1))
        release.set()
        assert value(connection, 2) == 4
        connection.close()


def test_nobody_there_says_so_and_how_to_start_a_server() -> None:
    with http_server(double) as (url, _):
        pass
    connection = posts(url, retry=ONCE)
    with pytest.raises(ServerUnreachable, match="make serve"):
        connection.post(pack(1))
    connection.close()


def test_a_refusal_carries_the_problem_and_the_connection_stays() -> None:
    body = pack(problem("unknown-robot", "no robot 'x'; known: arm").model_dump())

    def answer(handler: Handler, _: bytes) -> None:
        if len(handler.requests) == 1:
            handler.reply(body, status=404)
        elif len(handler.requests) == 2:
            handler.reply(b"Bad gateway", status=502, kind="text/plain")
        else:
            handler.reply(b"<html>", kind="text/html")

    with http_server(answer) as (url, handler):
        connection = posts(url)
        with pytest.raises(ServerProblem, match="no robot 'x'") as caught:
            connection.post(b"")
        assert (caught.value.code, caught.value.status) == ("unknown-robot", 404)
        with pytest.raises(ServerProblem, match="502: Bad gateway"):
            connection.post(b"")
        assert connection.post(b"") == ("text/html", b"<html>")
        connection.close()
    assert len(handler.connections) == 1


def test_close_ends_a_call_in_flight_and_later_ones() -> None:
    arrived, release = threading.Event(), threading.Event()
    ended: list[str] = []

    def hang(handler: Handler, _: bytes) -> None:
        arrived.set()
        release.wait(30)
        handler.close_connection = True

    def call(connection: PostConnection) -> None:
        try:
            connection.post(b"")
        except Disconnected as error:
            ended.append(str(error))

    with http_server(hang) as (url, _):
        connection = posts(url, retry=QUICK)
        thread = threading.Thread(target=call, args=(connection,))
        thread.start()
        assert arrived.wait(30)
        connection.close()
        thread.join(30)
        release.set()
        assert ended == ["this client has been closed"]
        with pytest.raises(Disconnected, match="closed"):
            connection.post(b"")


def test_the_robot_client_posts_over_it() -> None:
    def answer(handler: Handler, body: bytes) -> None:
        handler.reply(pack(act_reply(unpack(body))))

    observation: Any = {"images": {"front": np.zeros((4, 4, 3), np.uint8)}, "state": [1.0, 2.0]}
    with http_server(answer) as (url, handler), RobotClient(url, transport="http") as client:
        for number in range(2):
            assert client.act(observation, observation_seq=number).w_version == 3
    assert [request["path"] for request in handler.requests] == ["/act", "/act"]
    assert handler.requests[0]["accept"] == MSGPACK
    assert len(handler.connections) == 1


def test_a_page_of_another_server_is_a_protocol_error() -> None:
    observation: Any = {"images": {"front": np.zeros((4, 4, 3), np.uint8)}, "state": [1.0, 2.0]}
    with (
        http_server(lambda handler, _: handler.reply(b"<html>", kind="text/html")) as (url, _),
        RobotClient(url, transport="http") as client,
        pytest.raises(ProtocolError, match="is this a SelfAlign server"),
    ):
        client.act(observation)
