from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.testclient import TestClient

from server.app import create_app
from tests.fakes.running import make_runtime, observation, post_act, serving

if TYPE_CHECKING:
    from pathlib import Path

    from server.runtime import Runtime


def test_healthz_answers_as_openpi_does(client: TestClient) -> None:
    assert client.get("/healthz").text == "OK\n"


def test_the_server_is_ready_after_the_warm_up_and_only_then(runtime: Runtime) -> None:
    app = create_app(runtime.settings, runtime)
    cold = TestClient(app)  # without `with`, so the application has not started

    refused = cold.get("/readyz")
    assert (refused.status_code, refused.json()["code"]) == (503, "not-ready")
    assert "warming up" in refused.json()["detail"]
    assert cold.get("/healthz").status_code == 200
    with cold:
        assert cold.get("/readyz").text == "ready\n"
        app.state.drain.begin()
        assert "stopping" in cold.get("/readyz").json()["detail"]
    assert not runtime.is_ready


def test_the_policy_has_answered_for_every_robot_before_the_first_request(tmp_path: Path) -> None:
    from tests.fakes.running import arm_spec, fake_policy

    runtime = make_runtime(tmp_path, arm_spec(), arm_spec("leg"))
    with serving(runtime):
        assert len(fake_policy(runtime, "arm").seen) == 1
        assert len(fake_policy(runtime, "leg").seen) == 1


def test_metrics_have_a_registry_of_their_own(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_runtime(tmp_path / "other")
    post_act(client, observation())

    text = client.get("/metrics").text

    assert 'selfalign_act_requests_total{code="200",transport="http"} 1.0' in text
    assert b'code="200"' not in other.metrics.render()


def test_every_promised_metric_is_there(client: TestClient) -> None:
    text = client.get("/metrics").text

    for name in (
        "selfalign_act_latency_seconds",
        "selfalign_act_requests_total",
        "selfalign_act_in_flight",
        "selfalign_act_queue_dropped_total",
        "selfalign_safety_events_total",
        "selfalign_w_active_version",
        "selfalign_w_swaps_total",
        "selfalign_align_loss",
        "selfalign_align_steps_total",
        "selfalign_align_sessions_total",
        "selfalign_worker_restarts_total",
        "selfalign_play_steps_total",
        "selfalign_play_store_bytes",
        "selfalign_play_store_quota_bytes",
        "selfalign_ready",
    ):
        assert f"# HELP {name} " in text, name
