"""Where alignment runs: a process of its own, or a thread of the server. One seam, two ends."""

from __future__ import annotations

import logging
import os
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

from selfalign.data.play_store import PlayStore
from selfalign.model.device import side_stream
from server.align_job import AlignJob, Stopped, failure_message, run_job
from server.supervisor import ChildSpec, HelperProcess, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selfalign.model.policy import Policy

logger = logging.getLogger(__name__)

Message = dict[str, Any]

_YIELD_S = 0.0005
_LONGEST_YIELD_S = 0.1


class AlignWorker(Protocol):
    """Does one job at a time; what happens is told by messages, in a thread of its own."""

    def start(self) -> None:
        """Begin to be ready."""

    def close(self) -> None:
        """Give up what is running and end. Blocking."""

    def submit(self, job: AlignJob) -> None:
        """Do a job."""

    def stop(self, session: str) -> None:
        """Stop the job of a session, soon."""

    def healthy(self) -> Message:
        """Return what an operator wants to know."""


@final
@dataclass(frozen=True)
class Listener:
    """Who hears of a worker: each message, and the reason when it died."""

    on_message: Callable[[Message], None]
    on_exit: Callable[[str], None]


@final
@dataclass(frozen=True)
class WorkerModel:
    """The frozen model that a worker process loads.

    Attributes:
        directory: None for the one that ships.
        base_sha256: Of the model that the server holds; another one is refused.
        device: Torch device, a name.
        dtype: Precision of its weights, as the settings have it.
    """

    directory: Path | None
    base_sha256: str
    device: str = "cpu"
    dtype: str = "stored"


@final
class ProcessWorker:
    """The align worker as a supervised process.

    Args:
        listener: Who hears of it.
        model: What it loads.
        play_root: The play store.
        hang_s: Without a sign of life for this long it is killed.
        is_eager: Start the process at once, not with the first job.
        make_process: Makes the process.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        model: WorkerModel,
        play_root: Path,
        hang_s: float = 300.0,
        is_eager: bool = True,
        make_process: Callable[..., HelperProcess] = Supervisor,
    ) -> None:
        self._listener = listener
        self._base_sha256 = model.base_sha256
        self._is_eager = is_eager
        self._lock = threading.Lock()
        self._is_ready = False
        self._is_started = False
        self._waiting: AlignJob | None = None
        self._refusal: str | None = None
        self._supervisor = make_process(
            ChildSpec(
                name="align worker",
                target="server.worker:main",
                config={
                    "model_dir": None if model.directory is None else str(model.directory),
                    "play_root": str(play_root),
                    "device": model.device,
                    "dtype": model.dtype,
                },
                nice=19,
                hang_s=hang_s,
                stop_s=5.0,
            ),
            on_message=self._hear,
            on_exit=self._died,
        )

    def start(self) -> None:
        """Start the process, if it is to be there before the first job."""
        if self._is_eager:
            self._start()

    def close(self) -> None:
        """End the process."""
        self._supervisor.close(at_once=True)

    def submit(self, job: AlignJob) -> None:
        """Hand over a job; it waits while the process loads its model."""
        with self._lock:
            self._waiting = job
        self._start()
        if self._refusal is None:
            self._hand_over()
        else:
            self._refuse_waiting()

    def stop(self, session: str) -> None:
        """Ask the process to stop a job; one that it has not begun is taken back."""
        with self._lock:
            taken_back = self._waiting is not None and self._waiting.session == session
            if taken_back:
                self._waiting = None
        if taken_back:
            self._listener.on_message({"type": "stopped", "session": session})
        else:
            self._supervisor.send({"type": "stop", "session": session})

    def healthy(self) -> Message:
        """Return the state of the process."""
        return {"mode": "process", "ready": self._is_ready, **self._supervisor.healthy()}

    def _start(self) -> None:
        with self._lock:
            if self._is_started:
                return
            self._is_started = True
        self._supervisor.start()

    def _hand_over(self) -> None:
        with self._lock:
            if not self._is_ready or self._waiting is None:
                return
            job, self._waiting = self._waiting, None
        self._supervisor.send({"type": "align", "job": job.model_dump(mode="json")})

    def _hear(self, message: Message) -> None:
        if message["type"] != "ready":
            self._listener.on_message(message)
        elif message["base_sha256"] != self._base_sha256:
            self._refusal = (
                f"the align worker loaded frozen model {message['base_sha256'][:12]}, the server "
                f"has {self._base_sha256[:12]}: the model directory was changed; restart the server"
            )
            logger.error("%s", self._refusal)
            self._refuse_waiting()
        else:
            self._is_ready = True
            self._hand_over()

    def _refuse_waiting(self) -> None:
        with self._lock:
            job, self._waiting = self._waiting, None
        if job is not None:
            message = {"type": "error", "session": job.session, "message": self._refusal}
            self._listener.on_message(message)

    def _died(self, reason: str) -> None:
        with self._lock:
            self._is_ready = False
            self._waiting = None
        self._listener.on_exit(reason)


@final
class ThreadWorker:
    """The aligner as a thread of the server, for boards where memory is shared with the GPU.

    Args:
        listener: Who hears of it.
        policy: The model that serves, shared.
        play_root: The play store.
        is_serving: Says whether an observation is being answered; alignment yields meanwhile.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        policy: Policy,
        play_root: Path,
        is_serving: Callable[[], bool],
    ) -> None:
        self._listener = listener
        self._policy = policy
        self._play_root = play_root
        self._is_serving = is_serving
        self._jobs: queue.SimpleQueue[AlignJob | None] = queue.SimpleQueue()
        self._stopped: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="align", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after the piece of work it is at."""
        self._closing.set()
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: AlignJob) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def stop(self, session: str) -> None:
        """Stop a job after the piece of work it is at."""
        self._stopped.add(session)

    def healthy(self) -> Message:
        """Return the state of the thread."""
        return {"mode": "inproc", "ready": True, "running": self._thread.is_alive()}

    def _run(self) -> None:
        # On Linux a thread has a niceness of its own.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while (job := self._jobs.get()) is not None:
            self._do(job)

    def _do(self, job: AlignJob) -> None:
        try:
            with side_stream(self._policy.device):
                run_job(
                    job,
                    self._policy,
                    PlayStore.reader(self._play_root),
                    tell=self._listener.on_message,
                    turn=lambda: self._turn(job.session),
                )
        except Exception as error:  # noqa: BLE001 - the thread must outlive a job; told and logged
            message = failure_message(error)
            self._listener.on_message({"type": "error", "session": job.session, "message": message})

    def _turn(self, session: str) -> None:
        """Yield while an observation is answered, but not for ever: play must go on."""
        waited_s = 0.0
        while self._is_serving() and waited_s < _LONGEST_YIELD_S:
            if self._closing.wait(_YIELD_S):
                break
            waited_s += _YIELD_S
        if self._closing.is_set() or session in self._stopped:
            raise Stopped
