"""A robot whose spec was edited, over HTTP: what serves, what is refused, and what is said."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from starlette.testclient import TestClient

from selfalign.align.snapshot import SnapshotMeta, encode_snapshot
from selfalign.data.spec import RobotSpec
from selfalign.data.w_spec import w_spec_sha256
from tests.fakes.running import (
    arm_spec,
    dummy_policy,
    make_runtime,
    observation,
    post_act,
    read,
    serving,
)

OLD = arm_spec()
NEW = arm_spec(rate_hz=10.0)


@contextmanager
def started(root: Path, *specs: RobotSpec) -> Iterator[TestClient]:
    with serving(make_runtime(root, *specs)) as client:
        yield client


def upload(client: TestClient, spec: RobotSpec | None, **params: Any) -> Any:
    """`POST /w` of ones, aligned for `spec`; the file names none where that is None."""
    policy = dummy_policy()
    meta = SnapshotMeta(
        version=7,
        parent=0,
        robot="arm",
        base_sha256=policy.base_sha256,
        session=None,
        created_at="2026-11-24T06:00:00Z",
        steps=5,
        play_steps=100,
        spec_sha256=None if spec is None else w_spec_sha256(spec),
    )
    data = encode_snapshot(policy.base_w().map(torch.ones_like), meta)
    headers = {"content-type": "application/vnd.safetensors"}
    return client.post("/w", content=data, headers=headers, params=params)


def refused(response: Any) -> dict[str, Any]:
    assert response.status_code == 409, response.text
    body: dict[str, Any] = response.json()
    assert body["code"] == "wrong-spec"
    assert body["spec_sha256"] == w_spec_sha256(OLD)
    assert body["robot_spec_sha256"] == w_spec_sha256(NEW)
    assert "align for the present one" in body["detail"]
    return body


def test_an_edited_spec_is_served_by_the_base_until_it_is_put_back(tmp_path: Path) -> None:
    with started(tmp_path, OLD) as client:
        made = upload(client, OLD, activate=True).json()
        assert (made["spec_sha256"], made["cannot_serve"]) == (w_spec_sha256(OLD), None)
        assert client.get("/robots/arm").json()["notice"] == ""

    with started(tmp_path, NEW) as client:
        assert read(post_act(client, observation()))["w_version"] == 0
        robot = client.get("/info").json()["robots"][0]
        assert robot["w_version"] == 0
        assert robot["spec_sha256"] == w_spec_sha256(NEW)
        assert robot["notice"].startswith("the base W serves: version 1 of robot 'arm' was aligned")
        # as HTML: the quotes are escaped
        assert "the base W serves: version 1" in client.get("/").text
        assert client.get("/readyz").status_code == 200
        base, old = client.get("/w").json()["versions"]
        assert (base["status"], base["cannot_serve"]) == ("active", None)
        assert old["status"] == "retired"
        assert "they differ in rate_hz" in old["cannot_serve"]
        assert client.get("/w/1").json() == old
        for request in (
            client.post("/w/1/activate"),
            client.post("/w/1/activate", params={"force": True}),
            client.post("/w/rollback"),
            post_act(client, observation(w_version=1), accept="application/json"),
            upload(client, OLD),
            upload(client, OLD, activate=True),
        ):
            refused(request)
        assert client.get("/problems/wrong-spec").status_code == 200
        assert 'selfalign_w_active_version{robot="arm"} 0.0' in client.get("/metrics").text

    with started(tmp_path, OLD) as client:
        assert read(post_act(client, observation()))["w_version"] == 1
        assert client.get("/w").json()["versions"][1]["cannot_serve"] is None
        assert client.post("/w/rollback").json()["active"] == 0


def test_a_file_for_another_spec_is_not_taken_and_one_that_names_none_is(tmp_path: Path) -> None:
    with started(tmp_path, NEW) as client:
        assert "this snapshot" in refused(upload(client, OLD))["detail"]
        assert [each["version"] for each in client.get("/w").json()["versions"]] == [0]
        taken = upload(client, None)
        assert (taken.status_code, taken.json()["spec_sha256"]) == (201, w_spec_sha256(NEW))


def test_a_robot_that_introduces_itself_anew_with_another_spec_starts_from_the_base(
    tmp_path: Path,
) -> None:
    with started(tmp_path, arm_spec("other"), OLD) as client:
        assert upload(client, OLD, robot="arm", activate=True).status_code == 201

    with started(tmp_path, arm_spec("other")) as client:
        introduced = client.post("/robots", json=NEW.model_dump(mode="json"))
        assert introduced.status_code == 201
        assert introduced.json()["w_version"] == 0
        assert "was aligned for another spec" in introduced.json()["notice"]
        assert read(post_act(client, observation(robot="arm")))["w_version"] == 0
