"""The websocket of the client: whole messages, ends, and pings while nobody receives."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from websockets.sync.server import ServerConnection

import client.websocket_connection
from client.websocket_connection import WebSocketConnection
from tests.fakes.wire_server import websocket_server

PATIENCE_S = 30.0


def opened(url: str, *, max_size: int = 2**20) -> WebSocketConnection:
    return WebSocketConnection(
        url.replace("http", "ws", 1), max_size=max_size, open_timeout_s=PATIENCE_S
    )


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


def send_without_end(connection: WebSocketConnection) -> None:
    for _ in range(10_000):
        connection.send(bytes(10_000))


def then_close(*messages: str | bytes | list[bytes]) -> Callable[[ServerConnection], None]:
    """A connection that sends these and closes."""

    def talk(connection: ServerConnection) -> None:
        for message in messages:
            connection.send(message)
        connection.close(1001)

    return talk


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 700_000])
def test_messages_of_any_size_come_back_whole(size: int) -> None:
    sent = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with websocket_server(echo) as url:
        connection = opened(url)
        for _ in range(2):
            connection.send(sent)
            assert connection.receive(PATIENCE_S) == sent
        connection.close()


def test_text_and_fragments_are_whole_messages_and_come_before_the_end() -> None:
    with websocket_server(then_close("grüß", [b"ab", b"cd", b"ef"])) as url:
        connection = opened(url)
        assert connection.receive(PATIENCE_S) == "grüß"
        assert connection.receive(PATIENCE_S) == b"abcdef"
        with pytest.raises(ConnectionClosedOK, match="1001"):
            connection.receive(PATIENCE_S)
        with pytest.raises(ConnectionClosedOK):
            connection.send(b"more")
        connection.close()


def test_silence_is_a_timeout_and_the_connection_stays() -> None:
    with websocket_server(echo) as url:
        connection = opened(url)
        with pytest.raises(TimeoutError):
            connection.receive(0.01)
        connection.send(b"x")
        assert connection.receive(PATIENCE_S) == b"x"
        connection.close()


def test_poll_gives_what_had_arrived_at_the_last_look() -> None:
    with websocket_server(echo) as url:
        connection = opened(url)
        connection.send(b"1")
        assert connection.poll() is None
        assert connection.receive(PATIENCE_S) == b"1"
        connection.send(b"2")
        while (found := connection.poll()) is None:
            connection.look()
        assert found == b"2"
        assert connection.poll() is None
        connection.close()


def test_sending_to_a_server_that_has_said_goodbye_tells_its_reason() -> None:
    with websocket_server(then_close()) as url:
        connection = opened(url)
        with pytest.raises(ConnectionClosed, match="1001"):
            send_without_end(connection)
        connection.close()


def test_a_message_that_is_too_large_ends_the_connection() -> None:
    with websocket_server(echo) as url:
        connection = opened(url, max_size=1000)
        connection.send(bytes(1001))
        with pytest.raises(ConnectionClosedError, match="1009"):
            connection.receive(PATIENCE_S)
        connection.close()


def test_a_connection_that_breaks_is_told_from_one_that_is_closed() -> None:
    def talk(connection: ServerConnection) -> None:
        connection.recv()
        connection.socket.shutdown(socket.SHUT_RDWR)

    with websocket_server(talk) as url:
        connection = opened(url)
        connection.send(b"x")
        with pytest.raises(ConnectionClosedError):
            connection.receive(PATIENCE_S)
        connection.close()


def test_close_wakes_a_receiver_and_the_server_hears_goodbye() -> None:
    codes: list[int] = []
    ended: list[type[BaseException]] = []

    def talk(connection: ServerConnection) -> None:
        connection.send(b"hello")
        with suppress(ConnectionClosed):
            connection.recv()
        codes.append(connection.protocol.close_code or 0)

    def wait(connection: WebSocketConnection) -> None:
        try:
            connection.receive(PATIENCE_S)
        except ConnectionClosed as error:
            ended.append(type(error))

    with websocket_server(talk) as url:
        polite = opened(url)
        assert polite.receive(PATIENCE_S) == b"hello"
        polite.close()
        polite.close()
        busy = opened(url)
        assert busy.receive(PATIENCE_S) == b"hello"
        waiting = threading.Thread(target=wait, args=(busy,))
        waiting.start()
        busy.close()
        waiting.join(PATIENCE_S)
    assert ended in ([ConnectionClosedError], [ConnectionClosedOK])
    assert codes[0] == 1000


def test_pings_are_answered_while_nobody_receives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.websocket_connection, "_LOOK_S", 0.01)
    answered: list[bool] = []
    told = threading.Event()

    def talk(connection: ServerConnection) -> None:
        answered.append(connection.ping().wait(PATIENCE_S))
        told.set()
        echo(connection)

    with websocket_server(talk) as url:
        connection = opened(url)
        assert told.wait(PATIENCE_S)
        connection.send(b"x")
        assert connection.receive(PATIENCE_S) == b"x"
        connection.close()
    assert answered == [True]
