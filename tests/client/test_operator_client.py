"""Operator calls against prepared answers."""

import json
from typing import Any

import pytest

from client import (
    Backoff,
    Endpoint,
    OperatorClient,
    ProtocolError,
    ServerProblem,
    ServerUnreachable,
)
from server.wire.operator import AlignRequest, Budget
from tests.fakes.clock import FakeClock
from tests.fakes.http_server import Answer, FakeHttp, http_server
from tests.fakes.server_replies import (
    EPISODES,
    INFO,
    ROBOT,
    SNAPSHOT,
    SPEC,
    VERSIONS,
    W_BYTES,
    W_SHA256,
    event_stream,
    session,
)


def operator(fake: FakeHttp) -> OperatorClient:
    return OperatorClient(Endpoint(fake.url, timeout_s=30, retry=Backoff(clock=FakeClock())))


def events(*items: Any, first: int = 1) -> Answer:
    return Answer(event_stream(*items, first=first), media_type="text/event-stream")


def test_status_gathers_model_versions_sessions_and_play() -> None:
    answers = {
        "GET /info": Answer(INFO),
        "GET /w": Answer(VERSIONS),
        "GET /align": Answer({"sessions": [session()]}),
        "GET /play": Answer(EPISODES),
    }
    with http_server(answers) as fake, operator(fake) as client:
        found = client.status()
    assert found.info.model.variant == "dummy"
    assert found.versions[0].active == 1
    assert found.sessions[0].state == "succeeded"
    assert found.play.episodes[0].length == 130
    assert fake.asked[1].query == "robot=arm"


def test_episodes_of_one_robot_are_listed_and_deleted() -> None:
    answers = {
        "GET /play": Answer(EPISODES),
        "POST /play/delete": Answer({"deleted": ["e1"], "freed_bytes": 5000}),
    }
    with http_server(answers) as fake, operator(fake) as client:
        assert client.episodes(robot="arm").episodes[0].seconds == 13.0
        assert client.delete_episodes(["e1"]).freed_bytes == 5000
        client.delete_episodes(("e1", "e2"), pinned=True)
    assert fake.asked[0].query == "robot=arm"
    assert [json.loads(asked.body) for asked in fake.asked[1:]] == [
        {"episodes": ["e1"], "pinned": False},
        {"episodes": ["e1", "e2"], "pinned": True},
    ]


def test_an_episode_that_must_stay_is_said() -> None:
    used = {"title": "x", "detail": "is being recorded", "code": "episode-in-use", "status": 409}
    answers = {"POST /play/delete": Answer(used, status=409, media_type="application/problem+json")}
    with (
        http_server(answers) as fake,
        operator(fake) as client,
        pytest.raises(ServerProblem, match="is being recorded") as caught,
    ):
        client.delete_episodes(["e1"])
    assert caught.value.code == "episode-in-use"
    assert len(fake.asked) == 1, "a deletion is never repeated"


def test_a_server_of_before_lists_its_episodes_all_the_same() -> None:
    old = {key: EPISODES[key] for key in ("free_bytes", "quota_bytes")}
    old["episodes"] = [{k: v for k, v in EPISODES["episodes"][0].items() if k != "seconds"}]
    with http_server({"GET /play": Answer(old)}) as fake, operator(fake) as client:
        found = client.episodes()
    assert (found.used_bytes, found.episodes[0].seconds) == (None, 0.0)


def test_add_robot_sends_the_spec() -> None:
    with http_server({"POST /robots": Answer(ROBOT, status=201)}) as fake, operator(fake) as client:
        assert client.add_robot(SPEC).robot == "arm"
    assert json.loads(fake.asked[0].body) == SPEC


def test_robots_lists_what_is_known() -> None:
    body = {"default": "arm", "robots": [ROBOT]}
    with http_server({"GET /robots": Answer(body)}) as fake, operator(fake) as client:
        assert client.robots().default == "arm"


def test_align_start_sends_what_was_asked_for() -> None:
    request = AlignRequest(robot="arm", budget=Budget(steps=None, seconds=2.0), promotion="manual")
    answers = {"POST /align": Answer(session("queued"), status=202)}
    with http_server(answers) as fake, operator(fake) as client:
        assert client.align.start(request).state == "queued"
    body = json.loads(fake.asked[0].body)
    assert body["budget"] == {"seconds": 2.0}
    assert (body["robot"], body["promotion"], body["source"]) == ("arm", "manual", "live")


def test_align_refused_says_why() -> None:
    busy = {"title": "Busy", "detail": "session s-0 runs", "code": "align-busy", "status": 409}
    answers = {"POST /align": Answer(busy, status=409, media_type="application/problem+json")}
    with (
        http_server(answers) as fake,
        operator(fake) as client,
        pytest.raises(ServerProblem, match="session s-0 runs") as caught,
    ):
        client.align.start()
    assert caught.value.code == "align-busy"
    assert len(fake.asked) == 1, "a start is never repeated"


def test_watch_gives_every_event_until_the_end() -> None:
    stream = events(("state", {"state": "running"}), ("progress", {"step": 1}), ("end", {}))
    with http_server({"GET /align/s-1/events": stream}) as fake, operator(fake) as client:
        kinds = [event.event for event in client.align.watch("s-1")]
    assert kinds == ["state", "progress", "end"]


def test_a_broken_watch_goes_on_after_the_last_event() -> None:
    streams = [
        events(("state", {}), ("progress", {"step": 1})),
        events(("progress", {"step": 2}), ("end", {}), first=3),
    ]
    with http_server({"GET /align/s-1/events": streams}) as fake, operator(fake) as client:
        ids = [event.id for event in client.align.watch("s-1")]
    assert ids == ["s-1:1", "s-1:2", "s-1:3", "s-1:4"]
    assert fake.asked[1].headers["last-event-id"] == "s-1:2"


def test_a_stream_that_never_ends_anything_is_given_up() -> None:
    with (
        http_server({"GET /align/s-1/events": events()}) as fake,
        operator(fake) as client,
        pytest.raises(ServerUnreachable, match="end without an end"),
    ):
        list(client.align.watch("s-1"))
    assert 2 < len(fake.asked) < 10


def test_watching_an_unknown_session_is_refused() -> None:
    with http_server({}) as fake, operator(fake) as client, pytest.raises(ServerProblem):
        next(client.align.watch("s-9"))


def test_stop_and_get_and_list_sessions() -> None:
    answers = {
        "POST /align/s-1/stop": Answer(session("stopped"), status=202),
        "GET /align/s-1": Answer(session("rejected", candidate=None)),
        "GET /align": Answer({"sessions": [session(), session("failed")]}),
    }
    with http_server(answers) as fake, operator(fake) as client:
        assert client.align.stop("s-1").state == "stopped"
        assert client.align.get("s-1").candidate is None
        assert [item.state for item in client.align.list()] == ["succeeded", "failed"]


def test_a_download_is_checked_against_its_hash() -> None:
    good = Answer(W_BYTES, headers={"etag": f'"{W_SHA256}"'})
    cut = Answer(W_BYTES[:-1], headers={"etag": f'"{W_SHA256}"'})
    with http_server({"GET /w/1": [good, cut]}) as fake, operator(fake) as client:
        assert client.w.download(1, robot="arm") == W_BYTES
        with pytest.raises(ProtocolError, match="the server says"):
            client.w.download(1)
    assert fake.asked[0].headers["accept"] == "application/vnd.safetensors"


def test_versions_are_read_switched_and_sent() -> None:
    swap = {"robot": "arm", "active": 0, "previous": 1, "w_sha256": W_SHA256}
    answers = {
        "GET /w/1": Answer(SNAPSHOT),
        "POST /w/0/activate": Answer(swap),
        "POST /w/rollback": Answer(swap),
        "POST /w": Answer(SNAPSHOT, status=201),
    }
    with http_server(answers) as fake, operator(fake) as client:
        assert client.w.get(1).play_steps == 130
        assert client.w.activate(0, robot="arm").active == 0
        assert client.w.rollback().previous == 1
        assert client.w.upload(W_BYTES, robot="arm", activate=True).version == 1
    assert fake.asked[-1].body == W_BYTES
    assert fake.asked[-1].query == "robot=arm&activate=true"
