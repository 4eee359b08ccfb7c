"""Play on its way in: open episodes, checks, and the ring to the recorder process.

Steps are checked here and put in the ring; the recorder makes them durable and says so. One
episode a robot is open at a time. All methods may be called from any thread; only those that wait
are coroutines.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, final

from selfalign.data.episode_id import new_episode_id
from selfalign.data.play_step import check_play_step
from server.episode import Episode, PlayError, failure, recorder_behind
from server.play_records import Begin, End, Entry, Flush, Step, encode
from server.recordings import Recordings
from server.ring import RecordTooLarge, RingFull, RingMemory, RingWriter
from server.signals import Signal
from server.supervisor import ChildSpec, HelperProcess, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from selfalign.data.play_step import PlayStep
    from selfalign.data.spec import RobotSpec

_REMEMBERED = 256
# Blocks of some megabytes come and go in the recorder. By default each of them is mapped and
# unmapped anew, and the page faults cost more than writing the block (measured: about half).
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(128 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}
_MAX_META_BYTES = 1 << 16


@final
@dataclass(frozen=True)
class IngestConfig:
    """Where play goes and how much of it."""

    root: Path
    quota_bytes: int
    min_free_bytes: int
    ring_bytes: int = 64 * 2**20
    block_steps: int = 32
    flush_s: float = 2.0
    idle_s: float = 30.0
    patience_s: float = 20.0
    is_eager: bool = True


@final
class Ingest:
    """Owns the ring, the recorder process and the open episodes.

    Attributes:
        recordings: What has been recorded.

    Args:
        config: Where play goes.
        count: Called with (robot, steps) for what was received.
        on_restart: Called when the recorder has died.
        make_process: Makes the recorder process.
    """

    def __init__(
        self,
        config: IngestConfig,
        *,
        count: Callable[[str, int], None] = lambda robot, steps: None,
        on_restart: Callable[[], None] = lambda: None,
        make_process: Callable[..., HelperProcess] = Supervisor,
    ) -> None:
        self.config = config
        self._count = count
        self._on_restart = on_restart
        self._memory = RingMemory.create(config.ring_bytes)
        self._ring = RingWriter(self._memory)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._changed = Signal()
        self._lock = threading.Lock()
        self._episodes: OrderedDict[str, Episode] = OrderedDict()
        self._open_by_robot: dict[str, Episode] = {}
        self._closed = False
        self._is_started = False
        self._supervisor = make_process(
            self._child(),
            on_message=self._hear,
            on_exit=self._recorder_ended,
            on_start=self._tell_open,
        )
        self.recordings = Recordings(
            config.root,
            send=self._supervisor.send,
            changed=self._changed,
            patience_s=config.patience_s,
        )

    def start(self) -> None:
        """Start the recorder process in the background, if it is to be there before any play."""
        if self.config.is_eager:
            self._start()

    def close(self) -> None:
        """Let the recorder write what is in the ring, seal and leave. Blocking, idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._supervisor.close(at_once=self._memory.used == 0)
        self.recordings.recorder_ended()
        os.close(self._wake)
        self._memory.close()

    def healthy(self) -> dict[str, Any]:
        """Return the state of the recorder and of the ring."""
        return {
            **self._supervisor.healthy(),
            "ring_fill": round(self._memory.used / self._memory.capacity, 4),
            "open_episodes": [episode.id for episode in self._open_by_robot.values()],
        }

    async def delete(
        self, episodes: Sequence[str], *, pinned: bool = False
    ) -> list[tuple[str, int]]:
        """Let the recorder delete sealed episodes; see `Recordings.delete`."""
        self._start()
        return await self.recordings.delete(episodes, pinned=pinned)

    # Episodes.

    async def begin(self, spec: RobotSpec, meta: dict[str, Any] | None = None) -> Episode:
        """Begin an episode of a robot and wait until the recorder has begun it too.

        Raises:
            PlayError: `play-busy` while another episode of the robot is open, `store-full`,
                `overloaded` when the recorder does not answer.
        """
        self._start()
        episode = self._claim(spec, _checked_meta(meta or {}))
        await self._changed.wait_for(
            lambda: episode.started or episode.state != "open", self.config.patience_s
        )
        if episode.error is not None:
            raise episode.error
        if not episode.started:
            self.end(episode)
            raise recorder_behind(self.config.patience_s)
        return episode

    def find(self, episode_id: str) -> Episode:
        """Return an episode of this run of the server. Raises PlayError `unknown-episode`."""
        with self._lock:
            episode = self._episodes.get(episode_id)
        if episode is None:
            raise PlayError(
                "unknown-episode",
                404,
                f"episode {episode_id!r} is not open here; leave `episode` out to start a new one",
            )
        return episode

    def open_episode(self, robot: str) -> Episode | None:
        """Return the open episode of a robot, if there is one."""
        return self._open_by_robot.get(robot)

    async def add(self, episode: Episode, step: PlayStep) -> int:
        """Take one step, waiting for room in the ring. Returns how many were received.

        Raises:
            ObservationMismatch, BadPlayStep: The step is wrong; it was not taken.
            PlayError: The episode takes no more steps, or the recorder is behind.
        """
        if not self._try_add(episode, step):
            took = await self._changed.wait_for(
                lambda: self._try_add(episode, step), self.config.patience_s
            )
            if not took:
                raise recorder_behind(self.config.patience_s)
        return episode.received

    async def sync(self, episode: Episode) -> int:
        """Wait until what was received is durable. Returns the watermark. Raises PlayError."""
        goal = episode.received
        if episode.durable < goal:
            self._push(Flush(episode.id))
        await self._changed.wait_for(
            lambda: episode.durable >= goal or episode.state != "open", self.config.patience_s
        )
        if episode.error is not None:
            raise episode.error
        if episode.durable < goal:
            raise recorder_behind(self.config.patience_s)
        return episode.durable

    def end(self, episode: Episode) -> None:
        """Let the recorder seal the episode; the robot may begin the next one at once."""
        with episode.lock:
            if not episode.is_open:
                return
            # Without room the recorder seals it when it has been silent for `idle_s`.
            self._push(End(episode.id))
            episode.ending = True
        self._release(episode)

    async def sealed(self, episode: Episode) -> int:
        """Wait until an ended episode is sealed. Returns its length. Raises PlayError."""
        done = await self._changed.wait_for(lambda: episode.state != "open", self.config.patience_s)
        if episode.error is not None:
            raise episode.error
        if not done:
            raise recorder_behind(self.config.patience_s)
        return episode.durable

    async def watch(self, episode: Episode, durable: int, timeout_s: float) -> bool:
        """Wait until the watermark is past `durable` or the episode is not open any more."""
        return await self._changed.wait_for(
            lambda: episode.durable > durable or episode.state != "open", timeout_s
        )

    # Internals.

    def _start(self) -> None:
        with self._lock:
            if self._is_started or self._closed:
                return
            self._is_started = True
        self._supervisor.start()

    def _child(self) -> ChildSpec:
        config = self.config
        return ChildSpec(
            name="recorder",
            target="server.recorder:main",
            config={
                "ring": self._memory.descriptor,
                "wake": self._wake,
                "root": str(config.root),
                "quota_bytes": config.quota_bytes,
                "min_free_bytes": config.min_free_bytes,
                "block_steps": config.block_steps,
                "flush_s": config.flush_s,
                "idle_s": config.idle_s,
            },
            descriptors=(self._memory.descriptor, self._wake),
            environment=_MALLOC,
            nice=5,
            hang_s=120.0,
            stop_s=30.0,
            dies_at_once=False,
        )

    def _claim(self, spec: RobotSpec, meta: dict[str, Any]) -> Episode:
        with self._lock:
            other = self._open_by_robot.get(spec.name)
            if other is not None:
                raise PlayError(
                    "play-busy",
                    409,
                    f"robot {spec.name!r} is being recorded in episode {other.id} "
                    f"({other.received} steps); end that one, or wait until it has been silent "
                    f"for {self.config.idle_s:g} s",
                    episode=other.id,
                )
            newest = next(reversed(self._episodes), "")
            episode = Episode(new_episode_id(datetime.now(UTC), after=newest), spec)
            if not self._push(Begin(episode.id, spec, meta)):
                raise recorder_behind(0.0)
            self._open_by_robot[spec.name] = episode
            self._episodes[episode.id] = episode
            while len(self._episodes) > _REMEMBERED:
                self._forget_one()
            return episode

    def _forget_one(self) -> None:
        oldest = next((e for e in self._episodes.values() if e.state != "open"), None)
        if oldest is not None:
            del self._episodes[oldest.id]

    def _try_add(self, episode: Episode, step: PlayStep) -> bool:
        with episode.lock:
            episode.require_open()
            check_play_step(step, episode.spec, after_t_ns=episode.last_t_ns)
            if not self._push(Step(episode.id, episode.received, step)):
                return False
            episode.received += 1
            episode.last_t_ns = step.t_ns
        self._count(episode.spec.name, 1)
        return True

    def _push(self, entry: Entry) -> bool:
        try:
            self._ring.push(*encode(entry))
        except RingFull:
            return False
        except RecordTooLarge as error:
            raise PlayError(
                "body-too-large",
                413,
                f"this play step is too large to be recorded: {error}; send smaller images",
            ) from None
        # The recorder looks by itself some times a second; to be woken for each step would cost
        # it more than the step. What somebody waits for, and a filling ring, wake it.
        if not isinstance(entry, Step) or self._memory.used > self._memory.capacity // 8:
            os.eventfd_write(self._wake, 1)
        return True

    def _release(self, episode: Episode) -> None:
        with self._lock:
            if self._open_by_robot.get(episode.spec.name) is episode:
                del self._open_by_robot[episode.spec.name]

    def _tell_open(self) -> None:
        with self._lock:
            names = [e.id for e in self._episodes.values() if e.state == "open"]
            ended = {e.id: e.durable for e in self._episodes.values() if e.state != "open"}
        held = self.recordings.held()
        self._supervisor.send({"type": "open", "episodes": names, "ended": ended, "held": held})
        self._changed.notify()

    def _recorder_ended(self, reason: str) -> None:
        self.recordings.recorder_ended()
        self._on_restart()

    def _hear(self, message: dict[str, Any]) -> None:
        """Take news from the recorder, in the supervisor's thread."""
        match message["type"]:
            case "durable":
                for episode_id, durable in message["episodes"].items():
                    self._update(episode_id, durable=durable)
            case "started":
                self._update(message["episode"], started=True)
            case "sealed":
                self._update(message["episode"], durable=message["length"], state="sealed")
            case "failed":
                error = failure(message)
                self._update(message["episode"], state="failed", error=error)
            case "answer":
                self.recordings.hear(message)
        self._changed.notify()

    def _update(self, episode_id: str, **changes: Any) -> None:
        with self._lock:
            episode = self._episodes.get(episode_id)
        if episode is None:
            return
        for name, value in changes.items():
            setattr(episode, name, value)
        if episode.state != "open":
            self._release(episode)


def _checked_meta(meta: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(meta, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PlayError("bad-request", 422, f"meta must be JSON: {error}") from None
    if size > _MAX_META_BYTES:
        raise PlayError(
            "bad-request", 422, f"meta takes {size} bytes as JSON, at most {_MAX_META_BYTES}"
        )
    return meta
