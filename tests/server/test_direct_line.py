"""Messages of a websocket and their answers, without coroutines between, on a real port."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from server.direct_line import DirectLine, DirectProtocol, direct_line
from server.drain import Drain
from server.listen import DrainServer, bind, uvicorn_config
from server.settings import Settings
from server.wire.codec import dump_json, pack, unpack
from tests.fakes.listening import listening
from tests.fakes.running import fake_policy, make_runtime, observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from server.body import Format

WAIT_S = 60


def echo(line: DirectLine, data: bytes, data_format: Format) -> None:
    assert line.answer(data, data_format)


def echo_later(line: DirectLine, data: bytes, data_format: Format) -> None:
    asyncio.get_running_loop().call_soon(line.answer, data, data_format)


@contextmanager
def lined(take: Callable[[DirectLine, bytes, Format], None]) -> Iterator[str]:
    """A server whose websocket `/` answers with `take`; yields the address of it."""
    app = FastAPI()
    app.state.drain = Drain()

    @app.websocket("/")
    async def serve(websocket: WebSocket) -> None:
        await websocket.accept()
        line = direct_line(websocket)
        assert isinstance(line, DirectProtocol)
        await line.serve(lambda data, data_format: take(line, data, data_format))

    listener = bind("127.0.0.1", 0)
    config = uvicorn_config(app, Settings())
    config.lifespan = "off"
    server = DrainServer(config, app, lambda: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


@pytest.mark.parametrize("take", [echo, echo_later])
def test_messages_that_come_at_once_are_answered_one_by_one_in_order(
    take: Callable[[DirectLine, bytes, Format], None],
) -> None:
    sent = [str(n) if n % 3 == 0 else str(n).encode() for n in range(3000)]
    with lined(take) as url, connect(url, max_queue=None) as socket:
        for message in sent:
            socket.send(message)
        assert [socket.recv(WAIT_S) for _ in sent] == sent


def test_a_crowd_that_waited_and_is_then_answered_at_once_needs_no_deep_stack() -> None:
    def take(line: DirectLine, data: bytes, data_format: Format) -> None:
        (echo_later if data == b"0" else echo)(line, data, data_format)

    sent = [str(n).encode() for n in range(3000)]
    with lined(take) as url, connect(url, max_queue=None) as socket:
        for message in sent:
            socket.protocol.send_binary(message)
        # One write, so that all of them are there before the first is answered.
        socket.socket.sendall(b"".join(socket.protocol.data_to_send()))
        assert [socket.recv(WAIT_S) for _ in sent] == sent


def test_fragments_are_one_message_and_text_stays_text() -> None:
    with lined(echo) as url, connect(url) as socket:
        socket.send([b"ab", b"cd"])
        assert socket.recv(WAIT_S) == b"abcd"
        socket.send(["grü", "ß"])
        assert socket.recv(WAIT_S) == "grüß"


@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_frames_cut_anywhere_is_read_as_uvicorn_reads_it(seed: int) -> None:
    rng = random.Random(seed)
    sent: list[str | bytes] = []
    pings = 0
    with lined(rng.choice([echo, echo_later])) as url, connect(url, max_queue=None) as socket:
        protocol = socket.protocol
        for _ in range(60):
            data = rng.randbytes(rng.choice([0, 1, 5, 125, 126, 200, 70_000]))
            kind = rng.randrange(4)
            if kind == 0:
                protocol.send_binary(data)
                sent.append(data)
            elif kind == 1:
                protocol.send_text(data.hex().encode())
                sent.append(data.hex())
            elif kind == 2:
                protocol.send_binary(data[:3], fin=False)
                protocol.send_ping(bytes([pings]))
                protocol.send_continuation(data[3:], fin=True)
                sent.append(data)
                pings += 1
            else:
                protocol.send_ping(bytes([pings]))
                pings += 1
        stream = b"".join(protocol.data_to_send())
        while stream:
            size = rng.choice([1, 2, 7, 1000, 100_000])
            socket.socket.sendall(stream[:size])
            stream = stream[size:]
        assert [socket.recv(WAIT_S) for _ in sent] == sent


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\x01x", 1002),  # not masked
        (b"\xc2\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x83\x80\0\0\0\0", 1002),  # an opcode that there is not
        (b"\x80\x80\0\0\0\0", 1002),  # goes on with nothing
        (b"\x02\x80\0\0\0\0\x82\x80\0\0\0\0", 1002),  # a message within another
        (b"\x89\xfe\0\x7e\0\0\0\0" + bytes(126), 1002),  # a ping that is too long
        (b"\x82\xff" + (2**40).to_bytes(8, "big"), 1009),  # more than is accepted
    ],
)
def test_frames_that_break_the_rules_end_the_connection(data: bytes, code: int) -> None:
    with lined(echo) as url, connect(url) as socket:
        socket.send(b"x")
        assert socket.recv(WAIT_S) == b"x"
        socket.socket.sendall(data)
        with pytest.raises(ConnectionClosed, match=str(code)):
            socket.recv(WAIT_S)


def test_text_that_is_no_text_ends_the_connection() -> None:
    with lined(echo) as url, connect(url) as socket:
        socket.send(b"\xff", text=True)
        with pytest.raises(ConnectionClosed, match="1007"):
            socket.recv(WAIT_S)


def test_nothing_is_handed_over_while_the_client_does_not_read_its_answers() -> None:
    may_write: list[bool] = []
    answer = bytes(4 * 2**20)

    def take(line: DirectLine, _: bytes, data_format: Format) -> None:
        assert isinstance(line, DirectProtocol)
        may_write.append(line.writable.is_set())
        line.answer(answer, data_format)

    with lined(take) as url, connect(url, max_size=None, max_queue=1) as socket:
        for _ in range(20):
            socket.send(b"x")
        assert [len(socket.recv(WAIT_S)) for _ in range(20)] == [len(answer)] * 20
    assert may_write == [True] * 20


def test_an_answer_to_a_client_that_has_gone_is_dropped_and_said_so() -> None:
    lines: list[DirectProtocol] = []
    taken = threading.Event()

    def take(line: DirectLine, *_: object) -> None:
        assert isinstance(line, DirectProtocol)
        lines.append(line)
        taken.set()

    with lined(take) as url:
        with connect(url) as socket:
            socket.send(b"x")
            assert taken.wait(WAIT_S)
        while not lines[0].disconnected:
            threading.Event().wait(0.01)
        assert lines[0].answer(b"too late", "msgpack") is False


def test_observations_sent_before_the_greeting_and_in_both_formats_are_answered(
    tmp_path: Path,
) -> None:
    runtime = make_runtime(tmp_path)
    with listening(runtime) as address, connect(f"ws://{address}/act/stream") as socket:
        for seq in range(0, 6, 2):
            socket.send(pack(observation(observation_seq=seq)))
            socket.send(dump_json(observation(observation_seq=seq + 1)).decode())
        socket.send(b"\xc1")
        assert unpack(socket.recv(WAIT_S))["default_robot"] == "arm"
        found = []
        for _ in range(6):
            reply = socket.recv(WAIT_S)
            value = json.loads(reply) if isinstance(reply, str) else unpack(reply)
            found.append((value["observation_seq"], isinstance(reply, str)))
        assert unpack(socket.recv(WAIT_S))["error"]["code"] == "bad-message"
    assert found == [(seq, seq % 2 == 1) for seq in range(6)]
    registry = runtime.metrics.registry
    for code, count in (("200", 6), ("400", 1)):
        labels = {"code": code, "transport": "websocket"}
        assert registry.get_sample_value("selfalign_act_requests_total", labels) == count


def test_answers_of_loop_and_thread_keep_the_order_of_their_messages(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path)
    policy = fake_policy(runtime)
    count = 200
    with listening(runtime) as address, connect(f"ws://{address}/act/stream") as socket:
        socket.recv(WAIT_S)
        for number in range(count):
            socket.send(pack(observation(observation_seq=number)))
        found = [unpack(socket.recv(WAIT_S))["observation_seq"] for _ in range(count)]
    assert found == list(range(count))
    assert len(policy.threads) == 2, f"all answers were computed in {policy.threads}"


def test_a_full_queue_is_answered_at_once(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path, queue_depth=1)
    policy = fake_policy(runtime)
    with listening(runtime) as address:
        sockets = [connect(f"ws://{address}/act/stream").__enter__() for _ in range(3)]
        for socket in sockets:
            socket.recv(WAIT_S)
        policy.hold = threading.Event()
        for number, socket in enumerate(sockets, start=1):
            socket.send(pack(observation()))
            while number < 3 and runtime.engine.in_flight < number:
                threading.Event().wait(0.005)
        assert unpack(sockets[2].recv(WAIT_S))["error"]["code"] == "overloaded"
        policy.hold.set()
        for socket in sockets[:2]:
            assert unpack(socket.recv(WAIT_S))["w_version"] == 0
        for socket in sockets:
            socket.close()
