"""Asking for a chunk, over both transports, in good times and bad."""

import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.sync.server import ServerConnection

from client import (
    Backoff,
    Continuation,
    Disconnected,
    Endpoint,
    ProtocolError,
    RobotClient,
    ServerProblem,
    ServerUnreachable,
)
from server.wire.codec import pack, unpack
from server.wire.images import decode_image
from server.wire.problems import problem
from tests.fakes.clock import FakeClock
from tests.fakes.wire_server import METADATA, act_reply, receive, send, websocket_server

QUICK = Backoff(first_s=0.01, longest_s=0.02, give_up_after_s=30)
ONCE = Backoff(give_up_after_s=0)
OBSERVATION: Any = {
    "images": {"front": np.arange(48, dtype=np.uint8).reshape(4, 4, 3)},
    "state": [1.0, 2.0],
    "instruction": "touch the red cube",
}


def over_http(answer: Callable[[httpx.Request], httpx.Response], **kwargs: Any) -> RobotClient:
    where = Endpoint("http://robot:8000", retry=Backoff(clock=FakeClock()))
    return RobotClient(
        where, transport="http", http_transport=httpx.MockTransport(answer), **kwargs
    )


def msgpack_response(value: object, status: int = 200) -> httpx.Response:
    return httpx.Response(
        status, content=pack(value), headers={"content-type": "application/msgpack"}
    )


def eventually(call: Callable[[], Any]) -> Any:
    """The result of a call that a busy machine may make too slow for a short timeout."""
    for _ in range(100):
        try:
            return call()
        except Disconnected:
            continue
    raise AssertionError("no reply in 100 tries")


def answers(*replies: Callable[[Any], Any]) -> Callable[[ServerConnection], None]:
    """A connection that sends its metadata, then one reply a request."""

    def talk(connection: ServerConnection) -> None:
        send(connection, METADATA)
        for reply in replies:
            send(connection, reply(receive(connection)))
        connection.close()

    return talk


def test_websocket_act_returns_the_chunk_and_which_w_made_it() -> None:
    seen: list[Any] = []

    def reply(request: Any) -> Any:
        seen.append(request)
        return act_reply(request, clamped_dims=["x"])

    with websocket_server(answers(reply)) as url, RobotClient(url, robot="ur5e") as client:
        chunk = client.act(OBSERVATION, observed_at_s=12.5, observation_seq=7)
    np.testing.assert_array_equal(chunk.actions, [[1, 2], [2, 3]])
    assert (chunk.robot, chunk.w_version, chunk.w_sha256) == ("ur5e", 3, "c" * 64)
    assert (chunk.observed_at_s, chunk.observation_seq, chunk.dt_s) == (12.5, 7, 0.1)
    assert chunk.clamped_dims == ("x",)
    assert chunk.timing["inference_ms"] == 2.0
    assert chunk.round_trip_s > 0
    np.testing.assert_array_equal(seen[0]["images"]["front"], OBSERVATION["images"]["front"])
    assert seen[0]["instruction"] == "touch the red cube"


def test_one_connection_serves_many_requests() -> None:
    connections: list[int] = []

    def talk(connection: ServerConnection) -> None:
        connections.append(1)
        answers(*[act_reply] * 3)(connection)

    with websocket_server(talk) as url, RobotClient(url) as client:
        for _ in range(3):
            client.act(OBSERVATION)
    assert len(connections) == 1


def test_a_refusal_is_raised_and_the_connection_stays() -> None:
    def refuse(_: Any) -> Any:
        return {"error": problem("bad-observation", "camera 'front' is missing").model_dump()}

    with websocket_server(answers(refuse, act_reply)) as url, RobotClient(url) as client:
        with pytest.raises(ServerProblem, match="camera 'front' is missing") as caught:
            client.act(OBSERVATION)
        assert (caught.value.code, caught.value.status) == ("bad-observation", 422)
        assert not caught.value.is_transient
        client.act(OBSERVATION)


def test_a_broken_connection_is_opened_again_and_the_request_repeated() -> None:
    connections: list[int] = []

    def talk(connection: ServerConnection) -> None:
        connections.append(1)
        send(connection, METADATA)
        request = receive(connection)
        if len(connections) < 3:
            connection.socket.close()
        else:
            send(connection, act_reply(request))
            receive(connection)

    with (
        websocket_server(talk) as url,
        RobotClient(Endpoint(url, retry=QUICK)) as client,
    ):
        assert client.act(OBSERVATION).w_version == 3
    assert len(connections) == 3


def test_a_message_that_is_too_large_is_refused_at_once_and_not_sent_again() -> None:
    connections = []

    def talk(connection: ServerConnection) -> None:
        connections.append(connection)
        send(connection, METADATA)
        receive(connection)
        connection.close(1009, "frame exceeds limit")

    with websocket_server(talk) as url, RobotClient(Endpoint(url, retry=QUICK)) as client:
        with pytest.raises(ServerProblem, match="frame exceeds limit") as refused:
            client.act(OBSERVATION)
        assert (refused.value.code, refused.value.status) == ("body-too-large", 413)
    assert len(connections) == 1


def test_nobody_there_says_so_and_how_to_start_a_server() -> None:
    with websocket_server(lambda _: None) as url:
        pass
    with (
        RobotClient(Endpoint(url, retry=ONCE)) as client,
        pytest.raises(ServerUnreachable, match="make serve"),
    ):
        client.act(OBSERVATION)


def test_a_late_reply_is_not_taken_for_that_of_the_next_request() -> None:
    release = threading.Event()

    def talk(connection: ServerConnection) -> None:
        send(connection, METADATA)
        request = receive(connection)
        if request["observation_seq"] == 1:
            release.wait(30)
        send(connection, act_reply(request))
        receive(connection)

    with (
        websocket_server(talk) as url,
        RobotClient(Endpoint(url, timeout_s=0.2, retry=QUICK)) as client,
    ):
        with pytest.raises(Disconnected, match=r"no reply within 0\.2 s"):
            client.act(OBSERVATION, observation_seq=1)
        release.set()
        assert eventually(lambda: client.act(OBSERVATION, observation_seq=2)).observation_seq == 2


def test_a_reply_about_another_observation_is_refused() -> None:
    def wrong(request: Any) -> Any:
        return act_reply(request, observation_seq=1)

    with (
        websocket_server(answers(wrong)) as url,
        RobotClient(url) as client,
        pytest.raises(ProtocolError, match="asked about observation 2, got a reply about 1"),
    ):
        client.act(OBSERVATION, observation_seq=2)


def test_an_answer_of_another_kind_of_server_is_a_protocol_error() -> None:
    with (
        websocket_server(answers(lambda _: {"actions": [[1.0]]})) as url,
        RobotClient(url) as client,
        pytest.raises(ProtocolError, match="does not fit: robot"),
    ):
        client.act(OBSERVATION)


def test_a_closed_client_does_not_open_again() -> None:
    with websocket_server(answers(act_reply)) as url:
        client = RobotClient(url)
        client.act(OBSERVATION)
        client.close()
        with pytest.raises(Disconnected, match="closed"):
            client.act(OBSERVATION)


def test_jpeg_images_are_sent_encoded() -> None:
    seen: list[Any] = []

    def reply(request: Any) -> Any:
        seen.append(request["images"]["front"])
        return act_reply(request)

    with websocket_server(answers(reply)) as url, RobotClient(url, jpeg_quality=90) as client:
        client.act(OBSERVATION)
    assert isinstance(seen[0], bytes)
    assert decode_image(seen[0]).shape == (4, 4, 3)


def test_http_act_speaks_msgpack() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return msgpack_response(act_reply(unpack(request.content)))

    with over_http(answer, robot="arm") as client:
        chunk = client.act(OBSERVATION, observed_at_s=1.0, w_version=2)
    np.testing.assert_array_equal(chunk.actions, [[1, 2], [2, 3]])
    assert chunk.w_version == 2
    assert requests[0].url.path == "/act"
    assert requests[0].headers["content-type"] == "application/msgpack"


def test_what_is_to_be_continued_is_sent_and_nothing_of_it_without() -> None:
    seen: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(unpack(request.content))
        return msgpack_response(act_reply(seen[-1]))

    with over_http(answer) as client:
        client.act(OBSERVATION)
        client.act(OBSERVATION, continuation=Continuation(np.array([[1.0, 2.0]]), 1))
        client.act(OBSERVATION, continuation=Continuation(np.array([[1.0, 2.0]]), 0, 3))
    names = {"previous_actions", "inference_delay", "execution_horizon"}
    assert names & seen[0].keys() == set()
    assert names - seen[1].keys() == {"execution_horizon"}
    assert seen[1]["previous_actions"].dtype == np.float32
    assert [request["inference_delay"] for request in seen[1:]] == [1, 0]
    assert seen[2]["execution_horizon"] == 3


def test_http_refusal_carries_the_problem() -> None:
    body = problem("unknown-robot", "no robot 'x'; known: arm").model_dump()
    with (
        over_http(lambda _: httpx.Response(404, json=body)) as client,
        pytest.raises(ServerProblem, match="no robot 'x'") as caught,
    ):
        client.act(OBSERVATION)
    assert caught.value.code == "unknown-robot"


def test_an_error_that_is_no_problem_document_still_says_something() -> None:
    with (
        over_http(lambda _: httpx.Response(502, text="Bad gateway")) as client,
        pytest.raises(ServerProblem, match="502: Bad gateway") as caught,
    ):
        client.act(OBSERVATION)
    assert caught.value.is_transient


def test_http_act_is_repeated_after_a_lost_connection() -> None:
    tries: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        tries.append(1)
        if len(tries) == 1:
            raise httpx.ConnectError("refused")
        if len(tries) == 2:
            raise httpx.RemoteProtocolError("gone")
        return msgpack_response(act_reply(unpack(request.content)))

    with over_http(answer) as client:
        client.act(OBSERVATION)
    assert len(tries) == 3


def test_http_silence_is_a_disconnection() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with over_http(answer) as client, pytest.raises(Disconnected, match="no reply within 10 s"):
        client.act(OBSERVATION)


def test_a_page_of_another_server_is_a_protocol_error() -> None:
    with (
        over_http(lambda _: httpx.Response(200, html="<html>")) as client,
        pytest.raises(ProtocolError, match="is this a SelfAlign server"),
    ):
        client.info()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://robot", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not an address like"):
        RobotClient(url)
