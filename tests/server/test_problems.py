"""Every error of the server becomes a problem that the table lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

import server.app  # noqa: F401 - loads every error class of the server
from selfalign.align.snapshot import SnapshotWrongBase
from selfalign.data.play_store import StoreFull, UnknownEpisode
from selfalign.errors import NoPlayData, SelfAlignError, SnapshotError, SpecError, StoreError
from server import problems
from server.problems import ProblemError, problem_of, status_of
from server.wire.problems import PROBLEMS, WireError

if TYPE_CHECKING:
    from collections.abc import Iterator


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_code_that_an_error_of_the_server_carries_is_listed() -> None:
    carried = {
        kind.code: kind
        for kind in subclasses(SelfAlignError)
        if kind.__module__.startswith("server.") and isinstance(getattr(kind, "code", None), str)
    }

    assert len(carried) > 8
    for code, kind in carried.items():
        assert code in PROBLEMS, kind
        assert getattr(kind, "status", PROBLEMS[code][0]) == PROBLEMS[code][0], kind


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        (SpecError, "bad-spec", 422),
        (SnapshotError, "bad-snapshot", 422),
        (SnapshotWrongBase, "wrong-base", 409),
        (NoPlayData, "no-play-data", 409),
        (StoreError, "store-error", 500),
        (StoreFull, "store-full", 507),
        (UnknownEpisode, "unknown-episode", 404),
    ],
)
def test_an_error_of_selfalign_has_its_code(kind: type[Any], code: str, status: int) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "what was wrong")

    found = problem_of(error)

    assert (found.code, found.status, status_of(error)) == (code, status, status)
    assert found.detail == "what was wrong"


def test_an_error_that_nobody_knows_is_logged_and_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for error in (ValueError("secret"), SelfAlignError("secret"), KeyError("secret")):
        found = problem_of(error)
        assert (found.code, status_of(error)) == ("internal-error", 500)
        assert "secret" not in found.detail
    assert "secret" in caplog.text


def test_extra_members_reach_the_client() -> None:
    assert problem_of(ProblemError("overloaded", "x", depth=3)).model_dump()["depth"] == 3
    assert problem_of(WireError("bad-message", "x", at=4)).model_dump()["at"] == 4


class Body(BaseModel):
    count: int


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    problems.install(app)

    @app.post("/typed")
    async def typed(body: Body) -> Body:
        return body

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", headers={"X-Pot": "tea"})

    @app.get("/wait")
    async def wait() -> None:
        raise ProblemError("not-ready", "soon", headers={"Retry-After": "7"})

    return TestClient(app, raise_server_exceptions=False)


def test_a_body_that_fastapi_refuses_names_its_fields(client: TestClient) -> None:
    wrong = client.post("/typed", json={"count": "many"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "bad-request")
    assert "body.count" in wrong.json()["detail"]
    broken = client.post("/typed", content="{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.json()["code"]) == (400, "bad-message")


def test_an_unusual_status_keeps_itself_and_its_headers(client: TestClient) -> None:
    response = client.get("/teapot")

    assert (response.status_code, response.json()["status"]) == (418, 418)
    assert response.headers["x-pot"] == "tea"


def test_headers_of_a_problem_reach_the_client(client: TestClient) -> None:
    response = client.get("/wait")

    assert response.status_code == 503
    assert response.headers["retry-after"] == "7"
    assert response.headers["cache-control"] == "no-store"
