"""What is killed with -9 takes nothing else with it. Real processes, the dummy model."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.testclient import TestClient

from selfalign.data.play_store import PlayStore
from selfalign.model.checkpoint import save_policy
from server.runtime import Runtime
from tests.fakes.operated import SPEC, events_of, post_play, record_play, sent_step
from tests.fakes.running import dummy_policy, make_runtime, post_act, read, serving

TIMEOUT_S = 120.0
ENDLESS = 100_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def runtime(root: Path) -> Runtime:
    save_policy(dummy_policy(), root / "model")
    return make_runtime(root, SPEC, model_dir=root / "model", min_free_bytes=0)


@pytest.fixture(scope="module")
def client(runtime: Runtime) -> Iterator[TestClient]:
    before = held()
    with serving(runtime) as client:
        record_play(client, 60)
        yield client
    assert held() == before


def held() -> tuple[list[str], int]:
    """Named shared memory of ours, and children."""
    names = [path.name for path in Path("/dev/shm").iterdir() if "selfalign" in path.name]
    return names, len(psutil.Process().children())


def act(client: TestClient) -> Any:
    one = sent_step(0)
    return read(post_act(client, {"images": one["images"], "state": one["state"]}))


def wait_until(claim: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not claim():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def ended(client: TestClient, session: str) -> dict[str, Any]:
    """What a session has come to, once it has ended."""
    events = events_of(client.get(f"/align/{session}/events").text)
    assert events[-1][1] == "end"
    found: dict[str, Any] = client.get(f"/align/{session}").json()
    return found


def test_killed_align_worker(client: TestClient, runtime: Runtime) -> None:
    """First it aligns; then it is killed: `/act` answers, the session says why it failed."""
    found = ended(client, client.post("/align", json={"budget": {"steps": 12}}).json()["id"])
    assert found["state"] == "succeeded", found["error"]
    assert act(client)["w_version"] == found["candidate"] == 1

    session = client.post("/align", json={"budget": {"steps": ENDLESS}}).json()["id"]
    wait_until(lambda: client.get(f"/align/{session}").json()["step"] > 0)
    worker = psutil.Process(runtime.sessions.healthy()["pid"])
    assert worker.nice() == 19
    worker.kill()
    assert act(client)["w_version"] == 1
    found = ended(client, session)
    assert found["state"] == "failed"
    assert "killed by SIGKILL" in found["error"]
    assert client.get("/w").json()["active"] == 1
    assert not list((runtime.settings.data_dir / "align").glob("*.safetensors*"))
    text = client.get("/metrics").text
    assert 'selfalign_worker_restarts_total{process="align"} 1.0' in text


def test_killed_recorder(client: TestClient, runtime: Runtime) -> None:
    """`/act` answers, and no step of play is lost."""
    episode = post_play(client, 0, 20).json()["episode"]
    os.kill(runtime.ingest.healthy()["pid"], signal.SIGKILL)
    assert post_play(client, 20, 30, episode=episode).status_code == 200
    act(client)
    done = post_play(client, 30, 33, episode=episode, end=True).json()
    assert (done["durable"], done["sealed"]) == (33, True)
    assert PlayStore.reader(runtime.ingest.config.root).open(episode).length == 33
    assert 'restarts_total{process="recorder"} 1.0' in client.get("/metrics").text
