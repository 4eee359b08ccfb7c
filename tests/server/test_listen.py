"""The server on a real port: limits of websockets, and an end in spite of open streams."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from server.drain import Drain
from server.listen import DrainServer, bind, uvicorn_config
from server.settings import Settings
from server.wire.codec import pack, unpack
from tests.fakes.listening import listening
from tests.fakes.running import fake_policy, make_runtime, observation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

WAIT_S = 60


def test_http_and_both_websockets_on_one_real_port(tmp_path: Path) -> None:
    with listening(make_runtime(tmp_path)) as address:
        with httpx.Client(base_url=f"http://{address}", timeout=WAIT_S) as http:
            assert http.get("/healthz").text == "OK\n"
            response = http.post(
                "/act",
                content=pack(observation()),
                headers={"content-type": "application/msgpack"},
            )
            assert unpack(response.content)["w_version"] == 0
            assert "server" not in response.headers
        for path, key in (("/act/stream", "default_robot"), ("/", "robot")):
            with connect(f"ws://{address}{path}", max_size=None) as socket:
                assert unpack(socket.recv(WAIT_S))[key] == "arm"
                assert socket.protocol.extensions == []  # no compression


def test_a_websocket_message_beyond_the_limit_closes_the_connection(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path, max_body_bytes=4096)
    with (
        listening(runtime) as address,
        connect(f"ws://{address}/act/stream", max_size=None) as socket,
    ):
        socket.recv(WAIT_S)
        socket.send(b"x" * 5000)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(WAIT_S)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009  # message too big


def test_open_websockets_do_not_hold_the_server(tmp_path: Path) -> None:
    with ExitStack() as clients:
        with listening(make_runtime(tmp_path)) as address:
            sockets = [
                clients.enter_context(connect(f"ws://{address}{path}", max_size=None))
                for path in ("/", "/act/stream")
            ]
            for socket in sockets:
                socket.recv(WAIT_S)
        # `listening` has checked that the server stopped
        for socket in sockets:
            with pytest.raises(ConnectionClosed):
                socket.recv(WAIT_S)


def test_an_answer_that_is_being_computed_at_the_end_is_still_given(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path)
    policy = fake_policy(runtime)
    answers: list[int] = []

    def ask(address: str) -> None:
        headers = {"content-type": "application/msgpack"}
        url = f"http://{address}/act"
        body = pack(observation())
        answers.append(httpx.post(url, content=body, headers=headers, timeout=WAIT_S).status_code)

    with listening(runtime) as address:
        httpx.get(f"http://{address}/readyz", timeout=WAIT_S)
        policy.hold = threading.Event()
        release = threading.Timer(0.5, policy.hold.set)
        policy.asked.clear()
        asking = threading.Thread(target=ask, args=(address,))
        asking.start()
        assert policy.asked.wait(WAIT_S)
        release.start()
    asking.join(WAIT_S)
    release.join(WAIT_S)

    assert answers == [200]


@pytest.mark.parametrize("path", ["/act/stream", "/"])
def test_a_client_that_leaves_while_its_answer_is_computed_is_no_error(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = make_runtime(tmp_path)
    policy = fake_policy(runtime)
    with listening(runtime) as address:
        with connect(f"ws://{address}{path}", max_size=None, close_timeout=0.1) as socket:
            socket.recv(WAIT_S)
            policy.hold = threading.Event()
            policy.asked.clear()
            socket.send(pack(observation()))
            assert policy.asked.wait(WAIT_S)
        policy.hold.set()
        assert httpx.get(f"http://{address}/healthz", timeout=WAIT_S).text == "OK\n"

    assert runtime.engine.in_flight == 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("path", ["/act/stream", "/"])
def test_an_answer_that_is_computed_while_the_server_stops_is_no_error(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = make_runtime(tmp_path)
    policy = fake_policy(runtime)
    with ExitStack() as clients:
        with listening(runtime) as address:
            socket = clients.enter_context(connect(f"ws://{address}{path}", max_size=None))
            socket.recv(WAIT_S)
            policy.hold = threading.Event()
            policy.asked.clear()
            socket.send(pack(observation()))
            assert policy.asked.wait(WAIT_S)
            release = threading.Timer(0.5, policy.hold.set)
            release.start()
        release.join(WAIT_S)

    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def _streaming_app(ended: threading.Event) -> FastAPI:
    app = FastAPI()
    app.state.drain = Drain()

    @app.get("/events")
    async def events(request: Request) -> StreamingResponse:
        async def endless() -> AsyncIterator[str]:
            app.state.drain.bind()
            yield "event: state\n\n"
            await app.state.drain.wait()
            ended.set()

        return StreamingResponse(endless(), media_type="text/event-stream")

    return app


def test_a_stream_is_told_of_the_end_before_uvicorn_waits_for_it() -> None:
    ended = threading.Event()
    app = _streaming_app(ended)
    listener = bind("127.0.0.1", 0)
    started = threading.Event()
    server = DrainServer(uvicorn_config(app, Settings(shutdown_grace_s=WAIT_S)), app, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert started.wait(WAIT_S)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/events"
    with httpx.stream("GET", url, timeout=WAIT_S) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: state"
        server.handle_exit(15, None)
        assert list(lines) == [""]
    thread.join(WAIT_S / 2)

    assert ended.is_set()
    assert not thread.is_alive()
    listener.close()


def test_a_drain_that_is_bound_to_no_loop_is_a_plain_latch() -> None:
    drain = Drain()

    drain.begin()

    assert drain.is_set
    asyncio.run(drain.wait())
