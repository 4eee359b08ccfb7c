"""A whole server for the tests of play and alignment: no process, but everything else is real."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from server.assembly import make_sessions
from server.ingest import Ingest, IngestConfig
from server.wire.codec import MSGPACK_MEDIA_TYPE, pack, unpack
from tests.fakes.play_steps import small_spec, step
from tests.fakes.running import make_runtime, serving
from tests.fakes.thread_process import ThreadRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.testclient import TestClient

    from selfalign.data.spec import RobotSpec
    from server.runtime import Runtime

SPEC = small_spec()


def operated_runtime(root: Path, *specs: RobotSpec, **play: Any) -> Runtime:
    """A runtime that records and aligns in threads; `play` changes the IngestConfig."""
    runtime = make_runtime(root, *(specs or (SPEC,)), align_mode="inproc")
    given = {"root": root / "data" / "play", "quota_bytes": 1 << 30, "min_free_bytes": 0}
    config = IngestConfig(**{**given, "is_eager": False, **play})
    runtime.ingest.close()
    runtime.ingest = Ingest(config, make_process=ThreadRecorder)
    runtime.sessions = make_sessions(
        runtime.settings,
        runtime.policy,
        runtime.registry,
        runtime.engine,
        runtime.metrics,
        runtime.ingest.recordings,
    )
    return runtime


@contextmanager
def operating(root: Path, **play: Any) -> Iterator[TestClient]:
    """A client of such a server."""
    with serving(operated_runtime(root, **play)) as client:
        yield client


def sent_step(index: int, spec: RobotSpec = SPEC, **changes: Any) -> dict[str, Any]:
    """Step number `index` as a client sends it."""
    one = step(index, spec)
    body = {
        "images": dict(one.observation.images),
        "state": one.observation.state,
        "action": one.action,
        "t_ns": one.t_ns,
        "instruction": one.observation.instruction,
    }
    return {**body, **changes}


def post_play(client: TestClient, start: int, stop: int, **body: Any) -> Any:
    """`POST /play` of steps [start, stop) in msgpack; the response."""
    steps = [sent_step(index) for index in range(start, stop)]
    content = pack({"steps": steps, **body})
    return client.post("/play", content=content, headers={"content-type": MSGPACK_MEDIA_TYPE})


def record_play(client: TestClient, length: int) -> str:
    """Play one sealed episode; its id."""
    response = post_play(client, 0, length, end=True)
    assert response.status_code == 200, response.text
    episode: str = response.json()["episode"]
    return episode


class Talk:
    """A websocket in msgpack or JSON."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket

    def send(self, **message: Any) -> None:
        self.socket.send_bytes(pack(message))

    def receive(self) -> Any:
        return unpack(self.socket.receive_bytes())

    def until(self, kind: str) -> Any:
        """Read messages up to one of this type."""
        while (message := self.receive())["type"] != kind:
            assert message["type"] == "ack", message
        return message

    def start(self, **fields: Any) -> str:
        """Begin an episode; its id."""
        self.send(type="start", **fields)
        episode: str = self.until("started")["episode"]
        return episode

    def step(self, index: int, **changes: Any) -> None:
        self.send(type="step", **sent_step(index, **changes))


@contextmanager
def talking(client: TestClient) -> Iterator[Talk]:
    """A connection to the websocket `/play`."""
    with client.websocket_connect("/play") as socket:
        yield Talk(socket)


def events_of(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, event, data) of a stream of server-sent events."""
    events = []
    for block in text.strip().split("\n\n"):
        if block.startswith(":"):
            continue
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        events.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return events
