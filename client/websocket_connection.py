"""A websocket that is read by the thread that waits for the reply.

The library's own blocking connection reads in a thread of its own; a reply then changes threads
twice before its receiver has it. Here its protocol without input and output sits directly on a
socket.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Final, final

from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.uri import WebSocketURI, parse_uri

_CHUNK: Final = 2**18
# How often an idle connection looks for pings of the server, which waits for the answer.
_LOOK_S: Final = 10.0


@final
class WebSocketConnection:
    """One open websocket. For one thread at a time, `close` excepted.

    While nobody receives, a thread looks every ten seconds and answers the server's pings.

    Args:
        url: `ws://` or `wss://`.
        max_size: Largest message that is accepted [byte].
        open_timeout_s: How long opening may take.
        close_timeout_s: How long `close` waits for the server's goodbye.

    Raises:
        InvalidHandshake: The server answered with something else than a websocket.
        OSError: It could not be reached, or not in time.
    """

    def __init__(
        self, url: str, *, max_size: int, open_timeout_s: float, close_timeout_s: float = 1.0
    ) -> None:
        uri = parse_uri(url)
        deadline_s = time.monotonic() + open_timeout_s
        self._protocol = ClientProtocol(uri, max_size=max_size)
        self._close_timeout_s = close_timeout_s
        self._parts: list[Frame] = []
        self._messages: deque[bytes | str] = deque()
        self._busy = threading.Lock()
        self._closed = threading.Event()
        self._stream = _stream_to(uri, open_timeout_s)
        try:
            self._shake_hands(deadline_s)
        except BaseException:
            self._stream.close()
            raise
        threading.Thread(target=self._look_after, name="websocket-pings", daemon=True).start()

    def send(self, message: bytes) -> None:
        """Send one binary message.

        Raises:
            ConnectionClosed: The connection is over.
        """
        with self._busy:
            if self._protocol.state is not State.OPEN:
                raise self._end()
            self._protocol.send_binary(message)
            try:
                self._write()
            except OSError as error:
                # The reason may have arrived.
                self._read_arrived()
                raise self._end() from error

    def receive(self, timeout_s: float) -> bytes | str:
        """The next message.

        Raises:
            TimeoutError: None came in time.
            ConnectionClosed: The connection is over, and every message of it was received.
        """
        with self._busy:
            deadline_s = time.monotonic() + timeout_s
            while not self._messages:
                if self._protocol.state is not State.OPEN:
                    raise self._end()
                self._read(max(0.0, deadline_s - time.monotonic()))
            return self._messages.popleft()

    def look(self) -> None:
        """Take what has arrived, for `poll`."""
        with self._busy:
            self._read_arrived()

    def poll(self) -> bytes | str | None:
        """The next of the messages that had arrived at the last look, or at a reception since."""
        with self._busy:
            return self._messages.popleft() if self._messages else None

    def close(self) -> None:
        """Say goodbye and close. Any thread, also twice; a call in flight then fails."""
        self._closed.set()
        if not self._busy.acquire(blocking=False):
            # Wakes the thread that waits for a message or for room.
            with suppress(OSError):
                self._stream.shutdown(socket.SHUT_RDWR)
            self._busy.acquire()
        try:
            self._say_goodbye()
        finally:
            self._stream.close()
            self._busy.release()

    def _shake_hands(self, deadline_s: float) -> None:
        protocol = self._protocol
        protocol.send_request(protocol.connect())
        self._write()
        while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
            self._read(max(0.0, deadline_s - time.monotonic()))
        if protocol.handshake_exc is not None:
            raise protocol.handshake_exc

    def _say_goodbye(self) -> None:
        deadline_s = time.monotonic() + self._close_timeout_s
        with suppress(OSError):
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
                self._write()
            while self._protocol.state is not State.CLOSED:
                self._read(max(0.0, deadline_s - time.monotonic()))

    def _look_after(self) -> None:
        while not self._closed.wait(_LOOK_S):
            if not self._busy.acquire(blocking=False):
                continue
            try:
                if self._protocol.state is not State.OPEN:
                    return
                self._read_arrived()
            finally:
                self._busy.release()

    def _read_arrived(self) -> None:
        """Take what the network holds already, without waiting."""
        with suppress(TimeoutError):
            while self._protocol.state is State.OPEN:
                self._read(0.0)

    def _read(self, timeout_s: float) -> None:
        """Wait for something from the network, and take it. Raises TimeoutError."""
        self._stream.settimeout(timeout_s)
        try:
            data = self._stream.recv(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError):
            raise TimeoutError from None
        except TimeoutError:
            raise
        except OSError:
            data = b""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        with suppress(OSError):
            self._write()
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take(event)

    def _write(self) -> None:
        parts = self._protocol.data_to_send()
        if not parts:
            return
        self._stream.settimeout(None)
        for data in parts:
            if data:
                self._stream.sendall(data)
            else:
                self._stream.shutdown(socket.SHUT_WR)

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._parts = [frame]
        elif frame.opcode is Opcode.CONT:
            self._parts.append(frame)
        else:
            return
        if not frame.fin:
            return
        data = b"".join(part.data for part in self._parts)
        if self._parts[0].opcode is Opcode.BINARY:
            self._messages.append(data)
            return
        try:
            self._messages.append(data.decode())
        except UnicodeDecodeError:
            self._protocol.fail(CloseCode.INVALID_DATA, "text is not UTF-8")

    def _end(self) -> ConnectionClosed:
        """Why the connection is over."""
        self._protocol.receive_eof()
        self._stream.close()
        return self._protocol.close_exc


def _stream_to(uri: WebSocketURI, timeout_s: float) -> socket.socket:
    stream = socket.create_connection((uri.host, uri.port), timeout_s)
    try:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not uri.secure:
            return stream
        return ssl.create_default_context().wrap_socket(stream, server_hostname=uri.host)
    except BaseException:
        stream.close()
        raise
