"""Every way in which a request can be wrong: a clear 4xx that says what was expected."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from starlette.testclient import WebSocketDenialResponse

from server.wire.codec import pack, unpack
from server.wire.images import encode_jpeg
from server.wire.problems import PROBLEM_MEDIA_TYPE, PROBLEMS, Problem
from tests.fakes.running import (
    SIZE,
    arm_spec,
    dummy_policy,
    fake_policy,
    make_runtime,
    observation,
    post_act,
    serving,
)

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.testclient import TestClient

    from server.runtime import Runtime

FRONT = np.zeros((SIZE, SIZE, 3), np.uint8)
WRIST = np.zeros((SIZE, 2 * SIZE, 3), np.uint8)


def assert_problem(response: Any, status: int, code: str, *said: str) -> Problem:
    """The response is a problem of that kind whose detail says all of `said`."""
    assert response.headers["content-type"] == PROBLEM_MEDIA_TYPE, response.text
    problem = Problem.model_validate_json(response.content)
    assert (response.status_code, problem.code) == (status, code), problem.detail
    assert problem.status == status
    assert (problem.type, problem.title) == (f"/problems/{code}", PROBLEMS[code][1])
    for words in said:
        assert words in problem.detail, problem.detail
    assert "Traceback" not in response.text
    return problem


def _images(**changes: Any) -> dict[str, Any]:
    return observation(images={"front": FRONT, "wrist": WRIST, **changes})


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (_images(front=WRIST), "bad-image", ("'front' is 8 x 16", "says 8 x 8")),
        (_images(front=encode_jpeg(WRIST)), "bad-image", ("'front' is 8 x 16", "says 8 x 8")),
        (_images(front=FRONT.astype(np.float32)), "bad-image", ("float32", "uint8")),
        (_images(front=encode_jpeg(FRONT)[:-40]), "bad-image", ("'front'", "cannot be decoded")),
        (_images(front=b"what?"), "bad-image", ("neither JPEG nor PNG",)),
        (observation(images={"front": FRONT}), "bad-observation", ("'wrist' is missing",)),
        (_images(roof=FRONT), "bad-observation", ("'roof'", "exactly the cameras")),
        (observation(state=[0, np.nan, 0]), "bad-observation", ("state[1] (q1)", "finite")),
        (observation(state=[0, 0, -np.inf]), "bad-observation", ("state[2] (q2)", "finite")),
        (observation(state=[0, 0]), "bad-observation", ("state", "[3]", "[2]")),
        (observation(state=[[0, 0, 0]]), "bad-request", ("state: expected one list of numbers",)),
        (observation(state=["a", "b", "c"]), "bad-request", ("state: expected",)),
        (observation(state=None), "bad-request", ("state: expected",)),
        ({"images": {"front": FRONT, "wrist": WRIST}}, "bad-request", ("state: Field required",)),
        (_images(front=[[1, 2]]), "bad-request", ("images.front: expected an array",)),
        (observation(instruction=7), "bad-request", ("instruction: ",)),
        (observation(instruction="x" * 2000), "bad-request", ("instruction: ", "1000")),
        (observation(w_version=-1), "bad-request", ("w_version: ",)),
        (observation(speed=3), "bad-request", ("speed: ",)),
        (observation(previous_action=[0.0]), "bad-observation", ("previous_action must be 2",)),
    ],
)
def test_an_observation_that_does_not_fit_is_told_what_fits(
    tmp_path: Path, body: dict[str, Any], code: str, said: tuple[str, ...]
) -> None:
    runtime = make_runtime(tmp_path, arm_spec(max_step=(0.5, None)))
    with serving(runtime) as client:
        assert_problem(post_act(client, body), 422, code, *said)
        assert fake_policy(runtime).seen[1:] == [] or code == "bad-observation"


def test_a_body_without_any_image_key_is_told_which_are_looked_for(client: TestClient) -> None:
    assert_problem(post_act(client, {"state": [0, 0, 0]}), 422, "bad-observation", "front, image")


def test_an_unknown_robot_is_told_the_known_ones(client: TestClient) -> None:
    for response in (
        post_act(client, observation(robot="leg")),
        client.get("/robots/leg"),
    ):
        assert_problem(response, 404, "unknown-robot", "'leg'", "arm")


def test_an_oversized_body_is_refused_by_its_announced_length(tmp_path: Path) -> None:
    with serving(make_runtime(tmp_path, max_body_bytes=2048)) as client:
        big = observation(instruction="x" * 4000)
        problem = assert_problem(post_act(client, big), 413, "body-too-large", "at most 2048")

    assert problem.model_dump()["limit_bytes"] == 2048


def test_an_oversized_body_without_a_length_is_refused_while_it_comes(tmp_path: Path) -> None:
    sent: list[int] = []

    def endless() -> Any:
        for number in range(1000):
            sent.append(number)
            yield b"x" * 1000

    with serving(make_runtime(tmp_path, max_body_bytes=2048)) as client:
        response = client.post(
            "/act", content=endless(), headers={"content-type": "application/msgpack"}
        )

    assert_problem(response, 413, "body-too-large", "at most 2048")


def test_an_oversized_frame_is_refused_where_the_transport_lets_it_through(tmp_path: Path) -> None:
    with serving(make_runtime(tmp_path, max_body_bytes=2048)) as client:
        with client.websocket_connect("/act/stream") as socket:
            socket.receive_bytes()
            socket.send_bytes(b"x" * 4000)
            assert unpack(socket.receive_bytes())["error"]["code"] == "body-too-large"
        with client.websocket_connect("/") as socket:
            socket.receive_bytes()
            socket.send_bytes(b"x" * 4000)
            assert socket.receive_text().startswith("body-too-large: ")


def test_a_truncated_message_is_refused(client: TestClient) -> None:
    whole = pack(observation())
    headers = {"content-type": "application/msgpack"}

    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        response = client.post("/act", content=whole[:size], headers=headers)
        assert_problem(response, 400, "bad-message", "not one whole msgpack message")
    text = client.post("/act", content='{"images": ', headers={"content-type": "application/json"})
    assert_problem(text, 400, "bad-message", "not valid JSON")


@pytest.mark.parametrize("value", [None, 3, [1], "text"])
def test_a_message_that_is_no_map_is_refused(client: TestClient, value: object) -> None:
    assert_problem(post_act(client, value), 400, "bad-message", "expected a map")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_media_type_is_refused(client: TestClient, media_type: str) -> None:
    response = client.post("/act", content=b"a=1", headers={"content-type": media_type})

    assert_problem(response, 415, "unsupported-media-type", "application/json", "msgpack")


def test_a_path_that_does_not_exist(client: TestClient) -> None:
    assert_problem(client.get("/nothing/here"), 404, "not-found", "GET /nothing/here", "/docs")


def test_a_method_that_does_not_exist(client: TestClient) -> None:
    response = client.get("/act")

    assert_problem(response, 405, "method-not-allowed", "GET /act")
    assert response.headers["allow"] == "POST"


def test_a_chunk_that_is_not_finite_is_rejected(client: TestClient, runtime: Runtime) -> None:
    fake_policy(runtime).chunk = np.array([[0.0, np.inf]], np.float32)

    assert_problem(post_act(client, observation()), 500, "non-finite-action", "rejected", "grip")


def test_an_unexpected_failure_shows_no_traceback(
    client: TestClient, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    fake_policy(runtime).error = RuntimeError("secret path /home/me")

    response = post_act(client, observation())

    problem = assert_problem(response, 500, "internal-error", "incident")
    assert "secret" not in response.text
    incident = problem.detail.split()[-1]
    assert incident in caplog.text


def test_too_many_at_once_are_told_to_wait(tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path, queue_depth=1)
    with serving(runtime) as client:
        policy = fake_policy(runtime)
        policy.asked.clear()
        policy.hold = threading.Event()
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(post_act, client, observation()) for _ in range(4)]
            refused = [task.result(60) for task in _first_done(waiting, 2)]
            policy.hold.set()
            answered = [task.result(60) for task in waiting]

    for response in refused:
        assert_problem(response, 503, "overloaded", "SELFALIGN_QUEUE_DEPTH")
        assert response.headers["retry-after"] == "1"
    assert sorted(response.status_code for response in answered) == [200, 200, 503, 503]


def _first_done(tasks: list[Any], count: int) -> list[Any]:
    from concurrent.futures import as_completed

    done = as_completed(tasks, timeout=60)
    return [next(done) for _ in range(count)]


def test_a_page_of_another_site_may_not_command_the_robot(client: TestClient) -> None:
    foreign = {"origin": "https://evil.example"}

    assert_problem(
        client.post("/act", content=pack(observation()), headers=foreign), 403, "cross-origin"
    )
    assert client.get("/info", headers=foreign).status_code == 200
    assert post_act(client, observation(), origin="http://testserver").status_code == 200
    for path in ("/", "/act/stream"):
        assert_problem(refused_handshake(client, path, foreign), 403, "cross-origin")


def test_a_name_that_the_server_does_not_have_is_refused(client: TestClient) -> None:
    rebound = {"host": "evil.example:8000", "origin": "http://evil.example:8000"}

    for response in (
        client.get("/info", headers=rebound),
        client.post("/act", content=pack(observation()), headers=rebound),
        refused_handshake(client, "/act/stream", rebound),
        refused_handshake(client, "/", rebound),
    ):
        assert_problem(response, 421, "unknown-host", "'evil.example:8000'")
        assert "SELFALIGN_ALLOWED_HOSTS" in response.json()["detail"]
    assert client.get("/info", headers={"host": "192.168.7.9:8000"}).status_code == 200


def refused_handshake(client: TestClient, path: str, headers: dict[str, str]) -> Any:
    """What the server answers instead of opening a websocket."""
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(path, headers=headers),
    ):
        pass
    return refused.value


@pytest.mark.parametrize("path", ["/act/strem", "/w"])
def test_a_websocket_that_is_not_there_is_not_found(client: TestClient, path: str) -> None:
    refused = refused_handshake(client, path, {})

    assert_problem(refused, 404, "not-found", repr(path), "/act/stream")


def test_a_robot_that_asks_for_more_than_the_model_has_is_refused(client: TestClient) -> None:
    from selfalign.align.robot_io import RobotIO
    from selfalign.errors import SpecError

    cameras = [{"name": f"c{i}", "height": 8, "width": 8} for i in range(9)]
    spec = arm_spec("octopus", cameras=cameras)

    with pytest.raises(SpecError, match="9 cameras"):
        RobotIO(dummy_policy(), spec)


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/w/rollback?robto=arm", ("'robto'", "it takes robot")),
        ("GET", "/w?robots=arm", ("'robots'", "it takes robot")),
        ("POST", "/w/1/activate?forced=true", ("'forced'", "robot, force")),
        ("POST", "/act?robto=arm", ("'robto'", "it takes robot")),
        ("POST", "/play?robot=arm", ("'robot'", "it takes none")),
        ("POST", "/align?robot=arm", ("'robot'", "it takes none")),
        ("GET", "/robots?name=arm", ("'name'", "it takes none")),
    ],
)
def test_a_misspelt_query_is_refused_instead_of_meaning_the_default_robot(
    client: TestClient, method: str, path: str, said: tuple[str, ...]
) -> None:
    assert_problem(client.request(method, path), 422, "bad-request", *said)
