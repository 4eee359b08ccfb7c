"""`/w`: versions of W over HTTP."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from selfalign.align.snapshot import SnapshotMeta, encode_snapshot
from tests.fakes.running import dummy_policy, make_runtime, observation, post_act, read, serving

SAFETENSORS = "application/vnd.safetensors"


def candidate(value: float, **changes: Any) -> bytes:
    """A snapshot file of the dummy model whose numbers are all `value`."""
    policy = dummy_policy()
    fields: dict[str, Any] = {
        "version": 7,
        "parent": 0,
        "robot": "arm",
        "base_sha256": policy.base_sha256,
        "session": None,
        "created_at": "2026-11-24T06:00:00Z",
        "steps": 5,
        "play_steps": 100,
    }
    w = policy.base_w().map(lambda tensor: torch.full_like(tensor, value))
    return encode_snapshot(w, SnapshotMeta(**{**fields, **changes}))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with serving(make_runtime(tmp_path)) as client:
        yield client


def upload(client: TestClient, data: bytes, **params: Any) -> Any:
    headers = {"content-type": SAFETENSORS}
    return client.post("/w", content=data, headers=headers, params=params)


def problem(response: Any, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    assert response.json()["code"] == code
    detail: str = response.json()["detail"]
    return detail


def test_a_w_far_beyond_the_base_is_refused(client: TestClient) -> None:
    said = problem(upload(client, candidate(1e30)), 422, "bad-snapshot")

    assert "norm of W is" in said
    assert [each["version"] for each in client.get("/w").json()["versions"]] == [0]


def test_base_is_version_zero(client: TestClient) -> None:
    body = client.get("/w").json()
    assert (body["robot"], body["active"]) == ("arm", 0)
    (base,) = body["versions"]
    assert (base["version"], base["status"]) == (0, "active")
    assert client.get("/w/0").json() == base


def test_a_version_is_downloaded_once(client: TestClient) -> None:
    response = client.get("/w/0", headers={"accept": SAFETENSORS})
    digest = hashlib.sha256(response.content).hexdigest()
    assert response.headers["content-type"] == SAFETENSORS
    assert response.headers["etag"] == f'"{digest}"'
    assert "immutable" in response.headers["cache-control"]
    for tag in (f'"{digest}"', f'W/"{digest}"', f'"x", "{digest}"', "*"):
        again = client.get("/w/0", headers={"accept": SAFETENSORS, "if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
    other = client.get("/w/0", headers={"accept": SAFETENSORS, "if-none-match": '"x"'})
    assert other.status_code == 200


def test_upload_activate_rollback(client: TestClient) -> None:
    response = upload(client, candidate(1.0))
    assert response.status_code == 201, response.text
    made = response.json()
    assert (made["version"], made["status"], made["steps"]) == (1, "candidate", 5)
    assert made["sha256"] == hashlib.sha256(candidate(1.0)).hexdigest()
    assert response.headers["location"] == "/w/1?robot=arm"
    swap = client.post("/w/1/activate").json()
    assert swap == {"robot": "arm", "active": 1, "previous": 0, "w_sha256": made["sha256"]}
    reply = read(post_act(client, observation()))
    assert (reply["w_version"], reply["w_sha256"]) == (1, made["sha256"])
    assert float(reply["actions"][0][0]) == 1.0
    assert client.post("/w/rollback").json()["active"] == 0
    assert read(post_act(client, observation()))["w_version"] == 0
    problem(client.post("/w/rollback"), 409, "nothing-to-roll-back")


def test_what_was_uploaded_comes_back_bit_by_bit(client: TestClient) -> None:
    data = candidate(0.5)
    version = upload(client, data).json()["version"]
    assert client.get(f"/w/{version}", headers={"accept": SAFETENSORS}).content == data


def test_upload_and_activate_in_one(client: TestClient) -> None:
    made = upload(client, candidate(1.0), activate=True).json()
    assert (made["status"], client.get("/w").json()["active"]) == ("active", 1)


def test_the_same_file_twice_is_one_version(client: TestClient) -> None:
    assert upload(client, candidate(1.0)).status_code == 201
    again = upload(client, candidate(1.0))
    assert (again.status_code, again.json()["version"]) == (200, 1)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad-snapshot"),
        (b"not a snapshot", "bad-snapshot"),
        (candidate(1.0)[:-9], "bad-snapshot"),
        (candidate(1.0) + b"x", "bad-snapshot"),
        (candidate(1.0, base_sha256="c" * 64), "wrong-base"),
    ],
)
def test_bad_files_are_refused_and_change_nothing(
    client: TestClient, data: bytes, code: str
) -> None:
    problem(upload(client, data, activate=True), 409 if code == "wrong-base" else 422, code)
    assert len(client.get("/w").json()["versions"]) == 1


def test_w_of_another_model_says_which(client: TestClient) -> None:
    detail = problem(upload(client, candidate(1.0, base_sha256="c" * 64)), 409, "wrong-base")
    assert "cccccccccccc" in detail


def test_what_does_not_exist_is_said(client: TestClient) -> None:
    for response in (
        client.get("/w/9"),
        client.post("/w/9/activate"),
        client.get("/w/9", headers={"accept": SAFETENSORS}),
    ):
        problem(response, 404, "unknown-version")
    for response in (
        client.get("/w", params={"robot": "leg"}),
        client.post("/w/0/activate", params={"robot": "leg"}),
        client.post("/w/rollback", params={"robot": "leg"}),
    ):
        problem(response, 404, "unknown-robot")
    problem(client.get("/w/latest"), 422, "bad-request")


def test_upload_of_another_kind_is_refused(client: TestClient) -> None:
    response = client.post("/w", content=b"{}", headers={"content-type": "application/json"})
    problem(response, 415, "unsupported-media-type")


def test_versions_outlive_the_server(tmp_path: Path) -> None:
    with serving(make_runtime(tmp_path)) as client:
        upload(client, candidate(1.0), activate=True)
        before = client.get("/w").json()
    with serving(make_runtime(tmp_path)) as client:
        assert client.get("/w").json() == before
        assert read(post_act(client, observation()))["w_version"] == 1


def test_full_disk_is_said_and_the_old_w_serves(client: TestClient, tmp_path: Path) -> None:
    # A directory in the way of the index makes every write of it fail.
    (tmp_path / "data" / "w" / "arm" / "index.json.tmp").mkdir()
    problem(upload(client, candidate(1.0), activate=True), 507, "store-full")
    assert read(post_act(client, observation()))["w_version"] == 0
