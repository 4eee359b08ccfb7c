"""An align worker that does what a test says, when it says so."""

from __future__ import annotations

from typing import Any

from selfalign.align.snapshot import SnapshotMeta, write_snapshot
from server.align_job import AlignJob
from server.align_worker import Listener
from tests.fakes.weights import BASE_SHA256, make_w


class FakeAlignWorker:
    """Keeps jobs; the test tells what comes of them."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.jobs: list[AlignJob] = []
        self.stopped: list[str] = []
        self.is_closed = False
        self.is_ready = True

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        self.is_closed = True

    def submit(self, job: AlignJob) -> None:
        self.jobs.append(job)

    def stop(self, session: str) -> None:
        self.stopped.append(session)

    def healthy(self) -> dict[str, Any]:
        return {"mode": "fake", "ready": self.is_ready}

    @property
    def job(self) -> AlignJob:
        """The last job."""
        return self.jobs[-1]

    def tell(self, kind: str, **message: Any) -> None:
        """Send a message of the last job's session."""
        self.listener.on_message({"type": kind, "session": self.job.session, **message})

    def align(self, steps: int = 2) -> None:
        """Do everything up to the last step."""
        self.tell("begun")
        self.tell("data", play_steps=40, train=30, held_out=8)
        self.tell("held_out", before=2.0)
        for step in range(1, steps + 1):
            losses = {"alignment/total": 1.0 / step}
            self.tell("progress", step=step, elapsed_s=0.1 * step, losses=losses)

    def write_candidate(self, value: float = 1.0, *, sha256: str | None = None) -> None:
        """Write a candidate filled with `value` and say so."""
        job = self.job
        meta = SnapshotMeta(
            version=job.version,
            parent=0,
            robot=job.spec.name,
            base_sha256=BASE_SHA256,
            session=job.session,
            created_at="2026-11-24T06:00:00Z",
            steps=2,
            play_steps=40,
        )
        snapshot = write_snapshot(job.out, make_w(value), meta)
        self.tell(
            "candidate",
            sha256=sha256 or snapshot.sha256,
            step=2,
            before=2.0,
            after=0.5,
            elapsed_s=0.3,
        )

    def judge(self, *, passed: bool) -> None:
        """Say what the gates found."""
        check = {
            "name": "held_out_total",
            "passed": passed,
            "value": 0.5,
            "limit": 1.96,
            "message": "held-out total is 0.5",
        }
        self.tell("gates", passed=passed, checks=[check])
