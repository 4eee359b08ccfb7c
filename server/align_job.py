"""One alignment from play to a judged candidate. Knows no process and no thread.

The same function runs in the align worker and, in `inproc` mode, in a thread of the server. What
it has to say goes through `tell`; between two pieces of work it calls `turn`.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, final

import torch
from pydantic import BaseModel, ConfigDict, Field

from selfalign.align.aligner import Aligner, AlignmentConfig
from selfalign.align.gates import GateConfig, GateReport, run_gates
from selfalign.align.losses import NAMES
from selfalign.align.snapshot import SnapshotMeta, read_snapshot, write_snapshot
from selfalign.data.spec import RobotSpec
from selfalign.data.w_spec import w_spec_sha256
from selfalign.errors import SelfAlignError
from server.align_play import MIN_TRANSITIONS, Play, load_play

if TYPE_CHECKING:
    from collections.abc import Callable

    from selfalign.align.aligner import AlignState
    from selfalign.align.batch import TransitionBatch
    from selfalign.align.snapshot import Snapshot
    from selfalign.data.play_reader import PlayReader
    from selfalign.model.policy import Policy
    from selfalign.model.weights import FastWeights

logger = logging.getLogger(__name__)

_PROGRESS_S = 0.1
_ANCHORS = 16


class AlignJob(BaseModel):
    """What the server asks of the worker. Paths are on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: str
    spec: RobotSpec
    episodes: tuple[str, ...] = Field(min_length=1)
    version: int = Field(ge=1, description="Version reserved for the candidate")
    active_version: int = Field(0, ge=0)
    active_path: Path | None = Field(None, description="Snapshot that acts now; None is the base")
    start: Literal["base", "active"] = Field("base", description="W to begin with")
    steps: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)
    config: AlignmentConfig = Field(default_factory=AlignmentConfig)
    gates: GateConfig = Field(default_factory=GateConfig)
    seed: int = Field(0, ge=0)
    max_transitions: int = Field(2048, ge=MIN_TRANSITIONS)
    prefix_memory_bytes: int = Field(
        2 << 30, ge=0, description="Prefixes kept in memory; beyond that they go to disk [byte]"
    )
    prefix_disk_bytes: int = Field(32 << 30, ge=0, description="Prefixes kept on disk [byte]")
    gradient_checkpointing: bool = Field(
        default=False, description="Compute the experts' layers twice, to keep less in memory"
    )
    out: Path = Field(description="File of the candidate; `prefixes/` beside it is the disk tier")
    note: str = ""


class Stopped(Exception):
    """The operator stopped the session."""


class AlignmentDiverged(SelfAlignError):
    """W or a loss is not finite any more."""

    code = "alignment-diverged"


@final
@dataclass(frozen=True)
class _Budget:
    """How long to align: `steps`, or until `seconds` of alignment have passed."""

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, job: AlignJob) -> Self:
        steps = job.config.steps if job.steps is None and job.seconds is None else job.steps
        return cls(steps, job.seconds)

    def is_spent(self, step: int, elapsed_s: float) -> bool:
        """Whether no further step may be taken. One always may."""
        if step == 0:
            return False
        if self.steps is not None and step >= self.steps:
            return True
        return self.seconds is not None and elapsed_s >= self.seconds


def run_job(
    job: AlignJob,
    policy: Policy,
    reader: PlayReader,
    *,
    tell: Callable[[dict[str, Any]], None],
    turn: Callable[[], None],
) -> None:
    """Align, write the candidate, judge it.

    Args:
        job: What to do.
        policy: The frozen model, loaded.
        reader: The play store.
        tell: Gets messages of type data, progress, candidate, gates and stopped.
        turn: Called between pieces of work; may wait, and raises Stopped to end the session.

    Raises:
        SelfAlignError: It cannot be done; nothing was changed.
    """
    tell({"type": "begun", "session": job.session})
    base = policy.base_w()
    active = _read_active(job, policy, base)
    started_s = time.monotonic()
    try:
        play = load_play(job, policy, reader, turn)
    except Stopped:
        tell({"type": "stopped", "session": job.session})
        return
    tell(
        {
            "type": "data",
            "session": job.session,
            "play_steps": play.play_steps,
            "train": len(play.train),
            "held_out": len(play.held_out),
        }
    )
    policy.set_gradient_checkpointing(job.gradient_checkpointing)
    aligner = Aligner(policy, job.config)
    before = held_out_loss(aligner, play.held_out, active)
    tell({"type": "held_out", "session": job.session, "before": before["alignment/total"]})
    state = aligner.start(active if job.start == "active" else base)
    state, was_stopped = _align(job, aligner, play, state, tell=tell, turn=turn)
    if was_stopped and state.step == 0:
        tell({"type": "stopped", "session": job.session})
        return
    after = held_out_loss(aligner, play.held_out, state.w)
    snapshot = _write_candidate(job, policy, state, play.play_steps, before, after)
    tell(
        {
            "type": "candidate",
            "session": job.session,
            "sha256": snapshot.sha256,
            "step": state.step,
            "before": before["alignment/total"],
            "after": after["alignment/total"],
            "elapsed_s": time.monotonic() - started_s,
        }
    )
    if was_stopped:
        tell({"type": "stopped", "session": job.session})
        return
    report = judge(job, aligner, play.held_out, active=active, candidate=snapshot.w)
    tell({"type": "gates", "session": job.session, **gates_message(report)})


def held_out_loss(aligner: Aligner, held_out: TransitionBatch, w: FastWeights) -> dict[str, float]:
    """Return the losses of W on held-out transitions, by their public names."""
    with torch.no_grad():
        return aligner.losses(aligner.policy, held_out, w).metrics


def judge(
    job: AlignJob,
    aligner: Aligner,
    held_out: TransitionBatch,
    *,
    active: FastWeights,
    candidate: FastWeights,
) -> GateReport:
    """Let a candidate pass through the gates, against the W that acts now."""
    rows = torch.linspace(0, len(held_out) - 1, min(_ANCHORS, len(held_out))).round().long()
    anchors = held_out.index(rows)
    off = tuple(f"alignment/{name}" for name in NAMES if job.config.of(name) == 0)
    return run_gates(
        aligner.policy,
        aligner.losses,
        held_out=held_out,
        active=active,
        candidate=candidate,
        base=aligner.policy.base_w(),
        anchors=(anchors.now, anchors.state),
        config=job.gates.model_copy(update={"exempt_losses": off}),
        action_mask=anchors.action_mask[0],
    )


def gates_message(report: GateReport) -> dict[str, Any]:
    """Return a gate report as plain values; what is not finite becomes None."""
    checks = [
        {
            "name": check.name,
            "passed": bool(check.passed),
            "value": finite(check.value),
            "limit": finite(check.limit),
            "message": check.message,
        }
        for check in report.checks
    ]
    return {"passed": bool(report.passed), "checks": checks}


def finite(value: float) -> float | None:
    """Return the number, or None for NaN and infinity, which JSON does not have."""
    return float(value) if math.isfinite(value) else None


def failure_message(error: Exception) -> str:
    """Return what the operator is told of an error that ended a job; logs what nobody foresaw."""
    if isinstance(error, SelfAlignError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"the aligner is out of memory ({error}); align on less play"
    if isinstance(error, OSError):
        return f"the disk refused: {error}; W is what it was"
    logger.error("alignment failed", exc_info=error)
    return f"the aligner failed ({type(error).__name__}); the server's log has the cause"


def _align(
    job: AlignJob,
    aligner: Aligner,
    play: Play,
    state: AlignState,
    *,
    tell: Callable[[dict[str, Any]], None],
    turn: Callable[[], None],
) -> tuple[AlignState, bool]:
    """Take steps until the budget is spent or the session is stopped (then True)."""
    budget = _Budget.of(job)
    generator = torch.Generator().manual_seed(job.seed)
    began_s = told_s = time.monotonic()
    while not budget.is_spent(state.step, time.monotonic() - began_s):
        try:
            turn()
        except Stopped:
            return state, True
        rows = torch.randint(len(play.train), (job.config.batch_size,), generator=generator)
        state = aligner.step(play.train.index(rows), state)
        _check_finite(state)
        now_s = time.monotonic()
        is_last = budget.is_spent(state.step, now_s - began_s)
        if state.step == 1 or is_last or now_s - told_s >= _PROGRESS_S:
            told_s = now_s
            tell(
                {
                    "type": "progress",
                    "session": job.session,
                    "step": state.step,
                    "elapsed_s": now_s - began_s,
                    "losses": state.metrics,
                    "cache": {} if play.cache is None else play.cache.counts.metrics(),
                }
            )
    return state, False


def _check_finite(state: AlignState) -> None:
    if not all(math.isfinite(value) for value in state.metrics.values()):
        raise AlignmentDiverged(
            f"alignment diverged: the losses of step {state.step} are {state.metrics}; the W "
            "before goes on serving. Check the play for wrong units, or lower the learning rate"
        )


def _read_active(job: AlignJob, policy: Policy, base: FastWeights) -> FastWeights:
    if job.active_path is None:
        return base
    snapshot = read_snapshot(
        job.active_path, like=base, base_sha256=policy.base_sha256, max_norm=None
    )
    return snapshot.w.map(lambda tensor: tensor.to(base.W1.device))


def _write_candidate(
    job: AlignJob,
    policy: Policy,
    state: AlignState,
    play_steps: int,
    before: dict[str, float],
    after: dict[str, float],
) -> Snapshot:
    metrics = {f"held_out_before/{name.split('/')[1]}": value for name, value in before.items()}
    metrics |= {f"held_out_after/{name.split('/')[1]}": value for name, value in after.items()}
    metrics |= state.metrics
    meta = SnapshotMeta(
        version=job.version,
        parent=job.active_version if job.start == "active" else 0,
        robot=job.spec.name,
        base_sha256=policy.base_sha256,
        session=job.session,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        steps=state.step,
        play_steps=play_steps,
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        note=job.note,
        spec_sha256=w_spec_sha256(job.spec),
    )
    return write_snapshot(job.out, state.w, meta)
