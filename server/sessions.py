"""Alignment sessions: from a request to a swap, one at a time.

The state machine: queued -> running -> gating -> succeeded | rejected; any of the first three may
also become failed, stopped or interrupted. Only the worker's thread moves a session on; the final
states are final. What a session has come to is an immutable value that any thread may read.
"""

from __future__ import annotations

import logging
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, final

from selfalign.align.aligner import AlignmentConfig
from selfalign.data.play_store import UnknownEpisode
from selfalign.errors import SelfAlignError
from server.align_job import AlignJob, finite
from server.align_worker import Listener
from server.events import EventLog
from server.play_choice import are_there, choose_play
from server.session_errors import AlignBusy, UnknownSession
from server.session_store import SessionStore
from server.wire.operator import AlignSession, GatesMessage, HeldOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selfalign.data.spec import RobotSpec
    from server.align_worker import AlignWorker, Message
    from server.metrics import Metrics
    from server.recordings import Recordings
    from server.registry import Registry
    from server.wire.operator import AlignRequest

logger = logging.getLogger(__name__)

_REMEMBERED = 200
_WAITING = "waiting for the align worker, which is loading the model"
_READING = "reading and encoding the play"


@final
@dataclass(frozen=True)
class SessionsConfig:
    """Where sessions are kept, and what of the model and the play they use."""

    directory: Path
    play_root: Path
    stride: int
    alignment: AlignmentConfig
    seed: int = 0
    prefix_memory_bytes: int = 2 << 30
    prefix_disk_bytes: int = 32 << 30
    gradient_checkpointing: bool = False


@final
class Sessions:
    """Starts, follows and ends alignment sessions.

    Args:
        config: Directories and defaults.
        registry: Takes candidates and swaps.
        make_worker: Makes the worker, given who listens to it.
        metrics: Losses, steps and ends are counted there; None for none.
        recordings: Keep what a session reads from being deleted; None where nobody deletes.
    """

    def __init__(
        self,
        config: SessionsConfig,
        registry: Registry,
        *,
        make_worker: Callable[[Listener], AlignWorker],
        metrics: Metrics | None = None,
        recordings: Recordings | None = None,
    ) -> None:
        self._config = config
        self._registry = registry
        self._metrics = metrics
        self._recordings = recordings
        self._store = SessionStore(config.directory)
        self._lock = threading.RLock()
        self._sessions: dict[str, AlignSession] = {}
        self._logs: dict[str, EventLog] = {}
        self._job: AlignJob | None = None
        self._starting = False
        self._worker = make_worker(Listener(self._hear, self._worker_died))
        for session in self._store.load():
            self._sessions[session.id] = session
        self._store.remove_leftovers()

    def start(self) -> None:
        """Start the worker."""
        self._worker.start()

    def close(self) -> None:
        """Interrupt what is running and end the worker. Blocking, idempotent."""
        try:
            with self._lock:
                if self._job is not None:
                    self._finish("interrupted", error="the server was stopped during the session")
        finally:
            self._worker.close()

    def healthy(self) -> dict[str, Any]:
        """Return the state of the worker and the session that runs."""
        job = self._job
        return {**self._worker.healthy(), "session": None if job is None else job.session}

    def list(self) -> list[AlignSession]:
        """Return all sessions, newest first."""
        # Copying a dict's values is one step for the interpreter, so no lock is needed here: the
        # event loop reads while the worker's thread, which holds the lock, writes to the disk.
        return list(self._sessions.values())[::-1]

    def get(self, session_id: str) -> AlignSession:
        """Return a session as it is now. Raises UnknownSession."""
        session = self._sessions.get(session_id)
        if session is None:
            raise UnknownSession(session_id)
        return session

    def log(self, session_id: str) -> EventLog:
        """Return the events of a session. One from before a restart has its end only."""
        session = self.get(session_id)
        log = self._logs.get(session_id)
        if log is None:
            log = EventLog(session_id)
            log.append("end", session.model_dump(mode="json"))
        return self._logs.setdefault(session_id, log)

    def create(self, spec: RobotSpec, request: AlignRequest) -> AlignSession:
        """Start a session (blocking: looks through the play).

        Raises:
            AlignBusy: One is running.
            NoPlayData: There is not enough play.
            SelfAlignError: An episode cannot be used.
        """
        with self._lock:
            if self._job is not None or self._starting:
                raise AlignBusy(self._job.session if self._job else "(being started)")
            self._starting = True
        session_id = _new_id()
        try:
            job = self._make_job(session_id, spec, request)
            session = AlignSession(
                id=job.session,
                robot=spec.name,
                state="queued",
                detail="" if self._worker.healthy()["ready"] else _WAITING,
                promotion=request.promotion,
                steps=job.steps,
                seconds=job.seconds,
                note=request.note,
                created_at=_now(),
            )
            with self._lock:
                self._job = job
                self._logs[job.session] = EventLog(job.session)
                self._forget_old()
                self._change(session)
            self._worker.submit(job)
            return session
        except BaseException:
            self._give_up(session_id)
            raise
        finally:
            self._starting = False

    def stop(self, session_id: str) -> AlignSession:
        """Ask a session to stop; one that has ended stays as it is. Raises UnknownSession."""
        session = self.get(session_id)
        if not session.is_final:
            self._worker.stop(session_id)
        return session

    # Making a job.

    def _make_job(self, session_id: str, spec: RobotSpec, request: AlignRequest) -> AlignJob:
        episodes = self._held_play(session_id, spec, request)
        active = self._registry.active(spec.name)
        losses = request.losses
        alignment = self._config.alignment
        return AlignJob(
            session=session_id,
            spec=spec,
            episodes=episodes,
            version=self._registry.reserve(spec.name),
            active_version=active.version,
            active_path=self._registry.file_of(spec.name, active.version),
            steps=request.budget.steps,
            seconds=request.budget.seconds,
            config=alignment.model_copy(
                update={
                    f"lambda_{name}": getattr(alignment, f"lambda_{name}") * is_on
                    for name, is_on in losses.model_dump().items()
                }
            ),
            seed=self._config.seed,
            prefix_memory_bytes=self._config.prefix_memory_bytes,
            prefix_disk_bytes=self._config.prefix_disk_bytes,
            gradient_checkpointing=self._config.gradient_checkpointing,
            out=self._store.candidate_path(session_id),
            note=request.note,
        )

    def _held_play(
        self, session_id: str, spec: RobotSpec, request: AlignRequest
    ) -> tuple[str, ...]:
        """Choose the play of a session; it is not deleted until the session has ended."""
        wanted = None if request.source == "live" else request.source.episodes
        root = self._config.play_root
        while True:
            try:
                episodes = choose_play(root, spec, wanted, stride=self._config.stride)
            except UnknownEpisode:
                # Deleted while it was looked at; one that was asked for is now missed by name.
                continue
            if self._recordings is None:
                return episodes
            self._recordings.hold(session_id, episodes)
            # One that went between the choice and the hold is not chosen again.
            if are_there(root, episodes):
                return episodes

    def _give_up(self, session_id: str) -> None:
        """Undo the start of a session that could not be handed to the worker."""
        with self._lock:
            if self._job is not None and self._job.session == session_id:
                self._finish("failed", error="the session could not be handed to the align worker")
        self._release(session_id)

    def _release(self, session_id: str) -> None:
        if self._recordings is not None:
            self._recordings.release(session_id)

    def _forget_old(self) -> None:
        while len(self._sessions) > _REMEMBERED:
            oldest = next(iter(self._sessions))
            del self._sessions[oldest]
            self._logs.pop(oldest, None)

    # Messages of the worker, in its thread.

    def _hear(self, message: Message) -> None:
        with self._lock:
            job = self._job
            if job is None or message.get("session") != job.session:
                return
            try:
                self._advance(job, message)
            except (SelfAlignError, OSError, ValueError) as error:
                self._finish("failed", error=str(error))
            except Exception:
                logger.exception("session %s failed", job.session)
                self._finish("failed", error="the server failed; its log has the cause")

    def _advance(self, job: AlignJob, message: Message) -> None:
        session = self._sessions[job.session]
        match message["type"]:
            case "begun":
                update = {"state": "running", "detail": _READING}
                self._change(session.model_copy(update=update))
            case "data":
                update = {"play_steps": message["play_steps"], "detail": ""}
                self._change(session.model_copy(update=update))
            case "held_out":
                held_out = HeldOut(before=finite(message["before"]))
                self._change(session.model_copy(update={"held_out": held_out}))
            case "progress":
                self._progress(session, message)
            case "candidate":
                self._take_candidate(job, session, message)
            case "gates":
                self._decide(job, session, message)
            case "stopped":
                self._finish("stopped", error=None)
            case "error":
                self._finish("failed", error=message["message"])

    def _progress(self, session: AlignSession, message: Message) -> None:
        update = {name: message[name] for name in ("step", "elapsed_s", "losses")}
        self._count_progress(session, message)
        session = session.model_copy(update=update)
        self._sessions[session.id] = session
        self._logs[session.id].append("progress", {**update, "steps": session.steps})

    def _take_candidate(self, job: AlignJob, session: AlignSession, message: Message) -> None:
        record = self._registry.add_candidate(job.spec.name, job.out, version=job.version)
        job.out.unlink(missing_ok=True)
        if record.sha256 != message["sha256"]:
            self._registry.reject(job.spec.name, record.version)
            raise ValueError(
                f"the candidate's file has sha256 {record.sha256[:12]}, the worker wrote "
                f"{message['sha256'][:12]}; it was changed on disk"
            )
        update = {
            "state": "gating",
            "step": message["step"],
            "elapsed_s": message["elapsed_s"],
            "held_out": HeldOut(before=finite(message["before"]), after=finite(message["after"])),
            "candidate": record.version,
        }
        self._change(session.model_copy(update=update))

    def _decide(self, job: AlignJob, session: AlignSession, message: Message) -> None:
        gates = GatesMessage.model_validate({k: message[k] for k in ("passed", "checks")})
        session = session.model_copy(update={"gates": gates})
        self._sessions[session.id] = session
        self._logs[session.id].append("gates", gates.model_dump(mode="json"))
        assert session.candidate is not None
        if not gates.passed:
            self._registry.reject(job.spec.name, session.candidate)
            reasons = "; ".join(check.message for check in gates.checks if not check.passed)
            self._finish("rejected", error=f"the gates rejected the candidate: {reasons}")
        elif session.promotion == "manual":
            self._finish("succeeded", error=None)
        else:
            self._promote(job, session.candidate)

    def _promote(self, job: AlignJob, version: int) -> None:
        robot = job.spec.name
        serving = self._registry.active(robot).version
        if serving != job.active_version:
            self._finish(
                "rejected",
                error=f"version {version} was judged against version {job.active_version}, but "
                f"{serving} became active meanwhile; activate {version} by hand, or align again",
            )
            return
        bundle = self._registry.activate(robot, version, reason="align")
        swap = {
            "robot": robot,
            "previous": serving,
            "version": version,
            "w_sha256": bundle.sha256,
        }
        self._logs[job.session].append("swap", swap)
        self._finish("succeeded", error=None)

    def _worker_died(self, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.worker_restarts.labels("align").inc()
        with self._lock:
            if self._job is not None:
                self._finish(
                    "failed",
                    error=f"the align worker ended during the session ({reason}); it is being "
                    "started again, and W is what it was. Start a new session",
                )

    # Changing a session. The lock is held.

    def _change(self, session: AlignSession) -> None:
        self._sessions[session.id] = session
        self._store.save(session)
        self._logs[session.id].append("state", session.model_dump(mode="json"))

    def _finish(self, state: str, *, error: str | None) -> None:
        job, self._job = self._job, None
        assert job is not None
        # Whoever hears of the end may delete the play at once.
        self._release(job.session)
        session = self._sessions[job.session]
        session = session.model_copy(update={"state": state, "detail": "", "error": error})
        self._change(session)
        self._logs[job.session].append("end", session.model_dump(mode="json"))
        job.out.unlink(missing_ok=True)
        logger.info("session %s %s%s", job.session, state, f": {error}" if error else "")
        if self._metrics is not None:
            self._metrics.align_sessions.labels(state).inc()

    def _count_progress(self, session: AlignSession, message: Message) -> None:
        if self._metrics is None:
            return
        self._metrics.align_steps.labels(session.robot).inc(message["step"] - session.step)
        for name, value in message["losses"].items():
            self._metrics.align_loss.labels(session.robot, name).set(value)
        for name, value in message.get("cache", {}).items():
            self._metrics.prefix_cache.labels(name.removeprefix("prefix_cache/")).set(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"
