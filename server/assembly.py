"""Build the parts that record and align, from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfalign.align.aligner import AlignmentConfig
from server.align_worker import ProcessWorker, ThreadWorker, WorkerModel
from server.ingest import Ingest, IngestConfig
from server.sessions import Sessions, SessionsConfig

if TYPE_CHECKING:
    from selfalign.model.policy import Policy
    from server.align_worker import AlignWorker, Listener
    from server.engine import Engine
    from server.metrics import Metrics
    from server.recordings import Recordings
    from server.registry import Registry
    from server.settings import Settings


def make_ingest(settings: Settings, metrics: Metrics) -> Ingest:
    """The way of play to the disk."""
    return Ingest(
        IngestConfig(
            root=settings.data_dir / "play",
            quota_bytes=settings.quota_bytes,
            min_free_bytes=settings.min_free_bytes,
            is_eager=settings.prestart,
        ),
        count=lambda robot, steps: metrics.play_steps.labels(robot).inc(steps),
        on_restart=lambda: metrics.worker_restarts.labels("recorder").inc(),
    )


def make_sessions(
    settings: Settings,
    policy: Policy,
    registry: Registry,
    engine: Engine,
    metrics: Metrics,
    recordings: Recordings,
) -> Sessions:
    """The way of play to a new W."""
    play_root = settings.data_dir / "play"

    def make_worker(listener: Listener) -> AlignWorker:
        if settings.align_mode == "inproc":
            return ThreadWorker(
                listener,
                policy=policy,
                play_root=play_root,
                is_serving=lambda: engine.in_flight > 0,
            )
        return ProcessWorker(
            listener,
            model=WorkerModel(
                settings.model_dir, policy.base_sha256, settings.device, settings.dtype
            ),
            play_root=play_root,
            is_eager=settings.prestart,
        )

    config = SessionsConfig(
        directory=settings.data_dir / "align",
        play_root=play_root,
        stride=policy.config.stride,
        alignment=AlignmentConfig(micro_batch=settings.align_micro_batch),
        gradient_checkpointing=settings.align_checkpointing,
        prefix_memory_bytes=settings.prefix_memory_bytes,
        prefix_disk_bytes=settings.prefix_disk_bytes,
    )
    return Sessions(
        config, registry, make_worker=make_worker, metrics=metrics, recordings=recordings
    )
