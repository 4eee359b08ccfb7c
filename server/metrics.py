"""Prometheus metrics of one server, in a registry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Mapping

_ACT_STAGES = ("queue", "encode", "inference", "safety", "total")
_LATENCY_BUCKETS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip


@final
class Metrics:
    """All metrics. Counters and gauges are thread-safe."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.act_latency = Histogram(
            "selfalign_act_latency_seconds",
            "From an observation's message to the reply with its chunk, by stage",
            ["stage"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        # Looked up once: these count for each observation.
        self._act_stages = {f"{stage}_ms": self.act_latency.labels(stage) for stage in _ACT_STAGES}
        self.act_requests = Counter(
            "selfalign_act_requests_total",
            "Observations answered, by HTTP status or its like",
            ["code", "transport"],
            registry=registry,
        )
        self.act_in_flight = Gauge(
            "selfalign_act_in_flight", "Observations waiting or being answered", registry=registry
        )
        self.act_queue_dropped = Counter(
            "selfalign_act_queue_dropped_total",
            "Observations refused because too many were waiting",
            registry=registry,
        )
        self.safety_events = Counter(
            "selfalign_safety_events_total",
            "Chunks that the safety stage changed or rejected",
            ["kind"],
            registry=registry,
        )
        self.w_active = Gauge(
            "selfalign_w_active_version", "Version of W in use", ["robot"], registry=registry
        )
        self.w_swaps = Counter(
            "selfalign_w_swaps_total", "Swaps of W", ["robot", "reason"], registry=registry
        )
        self.align_loss = Gauge(
            "selfalign_align_loss", "Last alignment loss", ["robot", "loss"], registry=registry
        )
        self.align_steps = Counter(
            "selfalign_align_steps_total", "Alignment steps", ["robot"], registry=registry
        )
        self.prefix_cache = Gauge(
            "selfalign_prefix_cache",
            "Prefix cache of the session that runs: hit_rate, hits, misses, bytes of both tiers",
            ["what"],
            registry=registry,
        )
        self.align_sessions = Counter(
            "selfalign_align_sessions_total", "Sessions that ended", ["state"], registry=registry
        )
        self.worker_restarts = Counter(
            "selfalign_worker_restarts_total",
            "Restarts of a process of the server",
            ["process"],
            registry=registry,
        )
        self.play_steps = Counter(
            "selfalign_play_steps_total", "Play steps received", ["robot"], registry=registry
        )
        self.play_bytes = Gauge(
            "selfalign_play_store_bytes",
            "What counts against the quota of play: episodes and quarantine",
            registry=registry,
        )
        self.play_quota = Gauge(
            "selfalign_play_store_quota_bytes", "Most that play may take", registry=registry
        )
        self.ready = Gauge("selfalign_ready", "1 if the server answers", registry=registry)

    def count_act(
        self, status: int, transport: str, timing_ms: Mapping[str, float] | None = None
    ) -> None:
        """Count one observation that was answered or refused, and how long its stages took."""
        self.act_requests.labels(str(status), transport).inc()
        if timing_ms is not None:
            for stage, seconds in self._act_stages.items():
                seconds.observe(timing_ms[stage] * 1e-3)

    def render(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
