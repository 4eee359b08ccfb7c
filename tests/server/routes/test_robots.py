from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from selfalign.errors import SpecError
from server.runtime import Runtime
from server.settings import Settings
from tests.fakes.robot_policy import FakeRobotPolicy
from tests.fakes.running import (
    arm_spec,
    dummy_policy,
    make_runtime,
    observation,
    post_act,
    read,
    serving,
)

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.testclient import TestClient


def spec_body(name: str = "leg", **changes: Any) -> dict[str, Any]:
    return {**arm_spec(name).model_dump(mode="json"), **changes}


def test_a_new_robot_is_served_at_once_from_the_base(client: TestClient) -> None:
    response = client.post("/robots", json=spec_body())

    assert response.status_code == 201
    assert response.json()["w_version"] == 0
    assert response.json()["digest"] == arm_spec("leg").digest
    assert read(post_act(client, observation(robot="leg")))["robot"] == "leg"
    listed = client.get("/robots").json()
    assert listed["default"] == "arm"
    assert [robot["robot"] for robot in listed["robots"]] == ["arm", "leg"]
    assert client.get("/robots/leg").json()["spec"]["rate_hz"] == 20.0


def test_the_same_spec_again_changes_nothing(client: TestClient) -> None:
    first = client.post("/robots", json=spec_body())
    again = client.post("/robots", json=spec_body())

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()


def test_another_spec_under_a_known_name_is_refused(client: TestClient) -> None:
    client.post("/robots", json=spec_body())

    refused = client.post("/robots", json=spec_body(rate_hz=5.0))

    assert (refused.status_code, refused.json()["code"]) == (409, "robot-exists")
    assert "new name" in refused.json()["detail"]


def test_a_bad_spec_is_told_its_field(client: TestClient) -> None:
    bad = spec_body()
    bad["action"][0]["high"] = -5.0
    for body, said in (
        (bad, "action.0"),
        ({**spec_body(), "name": "../x"}, "name"),
        ({}, "rate_hz"),
        ([], "mapping"),
        (spec_body(wheels=4), "wheels"),
    ):
        response = client.post("/robots", json=body)
        assert (response.status_code, response.json()["code"]) == (422, "bad-spec")
        assert said in response.json()["detail"]


def test_a_registered_robot_survives_a_restart(tmp_path: Path) -> None:
    with serving(make_runtime(tmp_path)) as client:
        assert client.post("/robots", json=spec_body()).status_code == 201

    with serving(make_runtime(tmp_path)) as client:
        assert read(post_act(client, observation(robot="leg")))["robot"] == "leg"
        assert client.get("/robots").json()["default"] == "arm"


def test_a_spoilt_file_of_a_registered_robot_does_not_stop_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = tmp_path / "data" / "robots" / "leg.yaml"
    stored.parent.mkdir(parents=True)
    stored.write_text("name: [")

    with serving(make_runtime(tmp_path)) as client:
        assert [robot["robot"] for robot in client.get("/robots").json()["robots"]] == ["arm"]
    assert "left out" in caplog.text


def test_two_specs_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="two robot specs have one name: arm, arm"):
        make_runtime(tmp_path, arm_spec(), arm_spec())


def test_a_server_without_any_robot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no robot spec; give one with --spec"):
        Runtime(Settings(specs=(), data_dir=tmp_path), dummy_policy(), robot_policy=FakeRobotPolicy)


def test_a_spec_given_at_the_start_wins_over_a_registered_one(tmp_path: Path) -> None:
    with serving(make_runtime(tmp_path)) as client:
        client.post("/robots", json=spec_body())

    leg = arm_spec("leg", rate_hz=5.0)
    with serving(make_runtime(tmp_path, arm_spec(), leg)) as client:
        assert client.get("/robots/leg").json()["digest"] == leg.digest


def test_a_swap_shows_in_the_metrics_and_the_info(client: TestClient, runtime: Runtime) -> None:
    record = runtime.registry.add_candidate("arm", _other_w(runtime))
    runtime.registry.activate("arm", record.version)

    text = client.get("/metrics").text
    assert f'selfalign_w_active_version{{robot="arm"}} {float(record.version)}' in text
    assert 'selfalign_w_swaps_total{reason="operator",robot="arm"} 1.0' in text
    assert client.get("/info").json()["robots"][0]["w_version"] == record.version
    reply = read(post_act(client, observation()))
    assert (reply["w_version"], reply["w_sha256"]) == (record.version, record.sha256)
    assert read(post_act(client, observation(w_version=0)))["w_version"] == 0


def _other_w(runtime: Runtime) -> bytes:
    from selfalign.align.snapshot import SnapshotMeta, encode_snapshot

    meta = SnapshotMeta(
        version=1,
        parent=0,
        robot="arm",
        base_sha256=runtime.policy.base_sha256,
        session=None,
        created_at="2026-11-24T06:00:00Z",
        steps=1,
        play_steps=1,
        metrics={},
        note="",
    )
    return encode_snapshot(runtime.policy.base_w().map(lambda tensor: tensor * 0.5), meta)


# A file in the way of its lineage's folder, a folder in that of its spec: every write there fails.
@pytest.mark.parametrize("obstacle", ["w/leg", "robots/leg.yaml/in/the/way"])
def test_a_disk_that_refuses_is_said_and_the_robot_can_be_sent_again(
    client: TestClient, tmp_path: Path, obstacle: str
) -> None:
    data = tmp_path / "data"
    (data / obstacle).parent.mkdir(parents=True, exist_ok=True)
    (data / obstacle).touch()
    refused = client.post("/robots", json=spec_body())
    assert (refused.status_code, refused.json()["code"]) == (507, "store-full")
    assert "'leg'" in refused.json()["detail"]
    assert post_act(client, observation(robot="leg")).status_code == 404
    (data / obstacle).unlink()
    assert not (data / "robots" / "leg.yaml").is_file()
    if obstacle.startswith("robots"):
        shutil.rmtree(data / "robots" / "leg.yaml")
    assert client.post("/robots", json=spec_body()).status_code == 201
    assert (data / "robots" / "leg.yaml").is_file()
