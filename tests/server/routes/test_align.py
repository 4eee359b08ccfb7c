"""`/align`: from a request to a swap, with the dummy model, in the server's own thread."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from selfalign.align.gates import GateConfig
from server.align_job import AlignJob
from server.wire.operator import DEFAULT_STEPS
from tests.fakes.operated import (
    SPEC,
    events_of,
    operating,
    post_play,
    record_play,
    sent_step,
    talking,
)
from tests.fakes.running import post_act, read

# More steps than a test could wait for; it is stopped before.
ENDLESS = 100_000
LOSSES = ("inverse_dynamics", "dynamics", "perception")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server with 60 steps of play."""
    with operating(tmp_path_factory.mktemp("server")) as client:
        record_play(client, 60)
        yield client


def follow(client: TestClient, session: str, **headers: str) -> list[tuple[str, str, Any]]:
    """All events of a session, to its end."""
    response = client.get(f"/align/{session}/events", headers=headers)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    return events_of(response.text)


def finished(client: TestClient, **request: Any) -> dict[str, Any]:
    """A session that has ended."""
    response = client.post("/align", json=request)
    assert response.status_code == 202, response.text
    session = response.json()["id"]
    assert response.headers["location"] == f"/align/{session}"
    follow(client, session)
    found: dict[str, Any] = client.get(f"/align/{session}").json()
    return found


def active(client: TestClient) -> int:
    version: int = client.get("/w").json()["active"]
    return version


def problem(response: Any, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    assert response.json()["code"] == code
    detail: str = response.json()["detail"]
    return detail


def test_play_aligns_and_the_result_acts(client: TestClient) -> None:
    before = active(client)
    found = finished(client, budget={"steps": 12}, note="bench")
    assert found["state"] == "succeeded", found["error"]
    assert (found["step"], found["steps"], found["note"]) == (12, 12, "bench")
    assert found["play_steps"] == 60
    assert found["held_out"]["after"] < found["held_out"]["before"]
    assert found["gates"]["checks"]
    versions = {each["version"]: each for each in client.get("/w").json()["versions"]}
    made = versions[found["candidate"]]
    assert (made["session"], made["steps"], made["note"]) == (found["id"], 12, "bench")
    assert active(client) == found["candidate"] != before
    reply = read(post_act(client, observation()))
    assert (reply["w_version"], reply["w_sha256"]) == (found["candidate"], made["sha256"])


def observation() -> dict[str, Any]:
    one = sent_step(0)
    return {"images": one["images"], "state": one["state"]}


def test_manual_promotion_leaves_the_switch_to_the_operator(client: TestClient) -> None:
    before = active(client)
    found = finished(client, budget={"steps": 2}, promotion="manual")
    assert active(client) == before
    candidate = found["candidate"]
    swap = client.post(f"/w/{candidate}/activate", params={"force": True}).json()
    assert (swap["active"], swap["previous"]) == (candidate, before)
    assert client.post("/w/rollback").json()["active"] == before


def test_events_can_be_taken_up_where_they_broke(client: TestClient) -> None:
    session = finished(client, budget={"steps": 3}, promotion="manual")["id"]
    events = follow(client, session)
    assert [name for _, name, _ in events][-1] == "end"
    assert [int(event_id.split(":")[1]) for event_id, _, _ in events] == list(
        range(1, len(events) + 1)
    )
    half = events[len(events) // 2][0]
    rest = follow(client, session, **{"last-event-id": half})
    assert rest == events[len(events) // 2 + 1 :]
    progress = [data for _, name, data in events if name == "progress"]
    assert progress[-1]["step"] == 3
    assert "alignment/total" in progress[-1]["losses"]


def test_one_session_at_a_time_and_stop(client: TestClient) -> None:
    running = client.post("/align", json={"budget": {"steps": ENDLESS}}).json()["id"]
    detail = problem(client.post("/align", json={}), 409, "align-busy")
    assert running in detail
    assert read(post_act(client, observation()))["w_version"] == active(client)
    stopped = client.post(f"/align/{running}/stop")
    assert stopped.status_code == 202
    events = follow(client, running)
    assert events[-1][2]["state"] == "stopped"
    assert client.post(f"/align/{running}/stop").json()["state"] == "stopped"


def test_budget_in_seconds_and_losses_off(client: TestClient) -> None:
    losses = {"inverse_dynamics": True, "dynamics": False, "perception": False}
    found = finished(client, budget={"seconds": 0.05}, losses=losses, promotion="manual")
    assert (found["steps"], found["seconds"]) == (None, 0.05)
    assert found["step"] >= 1
    names = {check["name"] for check in found["gates"]["checks"]}
    assert "alignment/inverse_dynamics" in names
    assert not names & {"alignment/dynamics", "alignment/perception"}


def test_live_play_includes_what_is_being_recorded(tmp_path: Path) -> None:
    with operating(tmp_path) as client, talking(client) as talk:
        talk.start()
        for index in range(45):
            talk.step(index)
        # The server answers in order, so after this all steps have been received.
        talk.send(type="sync")
        while talk.receive()["received"] < 45:
            pass
        found = finished(client, budget={"steps": 1}, promotion="manual")
        assert found["play_steps"] == 45


def test_without_enough_play_there_is_no_session(tmp_path: Path) -> None:
    with operating(tmp_path) as client:
        problem(client.post("/align", json={}), 409, "no-play-data")
        post_play(client, 0, 10, end=True)
        detail = problem(client.post("/align", json={}), 409, "no-play-data")
        assert "in 10 durable steps" in detail
        assert client.get("/align").json() == {"sessions": []}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"robot": "nope"}, 404, "unknown-robot"),
        ({"source": {"episodes": ["nope"]}}, 404, "unknown-episode"),
        ({"source": {"episodes": []}}, 422, "bad-request"),
        ({"source": "yesterday"}, 422, "bad-request"),
        ({"budget": {"steps": 0}}, 422, "bad-request"),
        ({"budget": {"steps": 1, "seconds": 1}}, 422, "bad-request"),
        ({"promotion": "maybe"}, 422, "bad-request"),
        (
            {"losses": dict.fromkeys(("inverse_dynamics", "dynamics", "perception"), False)},
            422,
            "bad-request",
        ),
        ({"steps": 50}, 422, "bad-request"),
    ],
)
def test_wrong_requests_are_refused(
    client: TestClient, body: dict[str, Any], status: int, code: str
) -> None:
    problem(client.post("/align", json=body), status, code)


def test_unknown_sessions_are_said(client: TestClient) -> None:
    for response in (
        client.get("/align/nope"),
        client.get("/align/nope/events"),
        client.post("/align/nope/stop"),
    ):
        problem(response, 404, "unknown-session")


def test_an_empty_request_asks_for_the_defaults(client: TestClient) -> None:
    response = client.post("/align")
    assert response.status_code == 202, response.text
    session = response.json()
    assert (session["robot"], session["steps"], session["promotion"]) == (
        SPEC.name,
        DEFAULT_STEPS,
        "auto",
    )
    client.post(f"/align/{session['id']}/stop")
    follow(client, session["id"])


def test_sessions_outlive_the_server(tmp_path: Path) -> None:
    with operating(tmp_path) as client:
        record_play(client, 40)
        done = finished(client, budget={"steps": 1}, promotion="manual")
        running = client.post("/align", json={"budget": {"steps": ENDLESS}}).json()["id"]
    with operating(tmp_path) as client:
        sessions = client.get("/align").json()["sessions"]
        assert [session["id"] for session in sessions] == [running, done["id"]]
        assert sessions[0]["state"] == "interrupted"
        assert sessions[1] == done
        assert client.get("/align", params={"robot": done["robot"]}).json()["sessions"] == sessions
        problem(client.get("/align", params={"robot": "leg"}), 404, "unknown-robot")
        assert [name for _, name, _ in follow(client, running)] == ["end"]


def test_full_disk_is_said(tmp_path: Path) -> None:
    with operating(tmp_path) as full:
        record_play(full, 40)
        # A directory in the way of the index makes every write of it fail.
        (tmp_path / "data" / "w" / SPEC.name / "index.json.tmp").mkdir()
        problem(full.post("/align", json={}), 507, "store-full")


def test_defaults_of_a_job_are_those_of_the_parts() -> None:
    assert AlignJob.model_fields["gates"].get_default(call_default_factory=True) == GateConfig()
