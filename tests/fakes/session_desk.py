"""Sessions driven by the test: their registry, and a worker and recordings that it plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from selfalign.align.aligner import AlignmentConfig
from server.metrics import Metrics
from server.registry import Registry
from server.sessions import Sessions, SessionsConfig
from server.wire.operator import AlignRequest
from tests.fakes.align_worker import FakeAlignWorker
from tests.fakes.play_steps import small_spec
from tests.fakes.weights import BASE_SHA256, make_w

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from server.recordings import Recordings

SPEC = small_spec()


class Holds:
    """What sessions hold, in place of `Recordings`."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, ...]] = {}
        self.on_hold: Callable[[], None] = lambda: None

    def hold(self, session: str, episodes: tuple[str, ...]) -> None:
        self.held[session] = episodes
        self.on_hold()

    def release(self, session: str) -> None:
        self.held.pop(session, None)


class Desk:
    """Sessions with their registry and their fake worker."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = Registry(root / "w", make_w(0.0), BASE_SHA256)
        self.registry.add_robot(SPEC)
        self.workers: list[FakeAlignWorker] = []
        config = SessionsConfig(
            directory=root / "align",
            play_root=root / "play",
            stride=2,
            alignment=AlignmentConfig(micro_batch=4),
            prefix_memory_bytes=1000,
            prefix_disk_bytes=2000,
            gradient_checkpointing=True,
        )
        self.metrics = Metrics()
        self.recordings = Holds()
        self.sessions = Sessions(
            config,
            self.registry,
            make_worker=self._make_worker,
            metrics=self.metrics,
            recordings=cast("Recordings", self.recordings),
        )
        self.sessions.start()

    def _make_worker(self, listener: Any) -> FakeAlignWorker:
        self.workers.append(FakeAlignWorker(listener))
        return self.workers[-1]

    @property
    def worker(self) -> FakeAlignWorker:
        return self.workers[-1]

    def begin(self, **request: Any) -> str:
        return self.sessions.create(SPEC, AlignRequest.model_validate(request)).id

    def events(self, session: str) -> list[str]:
        return [event.name for event in self.sessions.log(session).after(0)]

    def active(self) -> int:
        return self.registry.active(SPEC.name).version
