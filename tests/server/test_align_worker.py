"""Where alignment runs: the process as its owner sees it, and the thread with its yield gate."""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.align_job import AlignJob
from server.align_worker import Listener, ProcessWorker, ThreadWorker, WorkerModel
from tests.fakes.play_steps import small_spec
from tests.fakes.process import FakeProcess
from tests.fakes.recorded import record
from tests.fakes.running import dummy_policy

BASE = "b" * 64
TIMEOUT_S = 120.0


def make_job(root: Path, session: str = "s", **changes: Any) -> AlignJob:
    given: dict[str, Any] = {
        "session": session,
        "spec": small_spec(),
        "episodes": ("e",),
        "version": 1,
        "out": root / "candidate.safetensors",
    }
    return AlignJob(**{**given, **changes})


class Desk:
    """A process worker whose process the test plays."""

    def __init__(self, root: Path, *, is_eager: bool = False) -> None:
        self.heard: list[dict[str, Any]] = []
        self.deaths: list[str] = []
        self.processes: list[FakeProcess] = []
        self.worker = ProcessWorker(
            Listener(self.heard.append, self.deaths.append),
            model=WorkerModel(None, BASE, dtype="bfloat16"),
            play_root=root,
            is_eager=is_eager,
            make_process=self._make,
        )
        self.worker.start()

    def _make(self, *given: Any, **callbacks: Any) -> FakeProcess:
        self.processes.append(FakeProcess(*given, **callbacks))
        return self.processes[0]

    @property
    def process(self) -> FakeProcess:
        return self.processes[0]

    def ready(self, base_sha256: str = BASE) -> None:
        self.process.tell({"type": "ready", "base_sha256": base_sha256})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_process_is_niced_and_starts_with_the_first_job_or_at_once(tmp_path: Path) -> None:
    lazy, eager = Desk(tmp_path), Desk(tmp_path, is_eager=True)
    assert (lazy.process.starts, eager.process.starts) == (0, 1)
    lazy.worker.submit(make_job(tmp_path))
    eager.worker.submit(make_job(tmp_path))
    assert (lazy.process.starts, eager.process.starts) == (1, 1)
    assert lazy.process.spec.nice == 19


def test_process_is_told_device_and_precision(desk: Desk) -> None:
    told = desk.process.spec.config
    assert (told["device"], told["dtype"]) == ("cpu", "bfloat16")


def test_a_job_waits_until_the_model_is_loaded(desk: Desk, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    desk.worker.submit(job)
    assert desk.process.sent == []
    desk.ready()
    (sent,) = desk.process.sent
    assert AlignJob.model_validate(sent["job"]) == job
    desk.process.tell({"type": "begun", "session": "s"})
    assert desk.heard == [{"type": "begun", "session": "s"}]


def test_a_job_that_waits_can_be_taken_back(desk: Desk, tmp_path: Path) -> None:
    desk.worker.submit(make_job(tmp_path))
    desk.worker.stop("s")
    assert desk.heard == [{"type": "stopped", "session": "s"}]
    desk.ready()
    assert desk.process.sent == []


def test_a_job_that_runs_is_stopped_by_message(desk: Desk, tmp_path: Path) -> None:
    desk.ready()
    desk.worker.submit(make_job(tmp_path))
    desk.worker.stop("s")
    assert desk.process.sent[-1] == {"type": "stop", "session": "s"}


def test_a_worker_with_another_model_does_nothing(desk: Desk, tmp_path: Path) -> None:
    desk.worker.submit(make_job(tmp_path))
    desk.ready("c" * 64)
    desk.worker.submit(make_job(tmp_path, "t"))
    assert [(m["type"], m["session"]) for m in desk.heard] == [("error", "s"), ("error", "t")]
    assert "restart the server" in desk.heard[0]["message"]
    assert desk.process.sent == []


def test_after_a_death_the_next_job_waits_for_the_next_process(desk: Desk, tmp_path: Path) -> None:
    desk.ready()
    desk.process.die("killed by SIGKILL")
    assert desk.deaths == ["killed by SIGKILL"]
    desk.worker.submit(make_job(tmp_path))
    assert desk.process.sent == []
    assert not desk.worker.healthy()["ready"]
    desk.ready()
    assert desk.process.sent[-1]["type"] == "align"


class Thread:
    """A thread worker on recorded play."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.episodes = tuple(record(root / "play", 40))
        self.heard: queue.Queue[dict[str, Any]] = queue.Queue()
        self.serving = threading.Event()
        self.asked = threading.Event()
        self.worker = ThreadWorker(
            Listener(self.heard.put, lambda reason: None),
            policy=dummy_policy(),
            play_root=root / "play",
            is_serving=self._is_serving,
        )
        self.worker.start()

    def _is_serving(self) -> bool:
        self.asked.set()
        return self.serving.is_set()

    def submit(self, session: str = "s", **changes: Any) -> None:
        changes = {"episodes": self.episodes, "steps": 2, **changes}
        self.worker.submit(make_job(self.root, session, **changes))

    def until(self, kind: str) -> dict[str, Any]:
        while (message := self.heard.get(timeout=TIMEOUT_S))["type"] != kind:
            pass
        return message


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[Thread]:
    made = Thread(tmp_path)
    yield made
    made.worker.close()


def test_thread_aligns(thread: Thread) -> None:
    thread.submit()
    assert thread.until("candidate")["step"] == 2
    thread.until("gates")
    assert thread.worker.healthy() == {"mode": "inproc", "ready": True, "running": True}


def test_thread_gives_way_to_act_but_not_for_ever(thread: Thread) -> None:
    """While an observation is answered it waits, at most a tenth of a second a turn."""
    thread.serving.set()
    thread.submit()
    assert thread.asked.wait(TIMEOUT_S)
    thread.until("gates")


def test_thread_can_be_stopped(thread: Thread) -> None:
    thread.submit(steps=100_000)
    thread.until("progress")
    thread.worker.stop("s")
    thread.until("stopped")


def test_an_error_ends_the_job_not_the_thread(thread: Thread) -> None:
    thread.submit("bad", episodes=("nope",))
    assert "nope" in thread.until("error")["message"]
    (thread.root / "candidate.safetensors").mkdir()
    thread.submit("worse")
    assert thread.until("error")["session"] == "worse"
    (thread.root / "candidate.safetensors").rmdir()
    thread.submit("good")
    thread.until("gates")
