"""Stream play to the server: what the robot saw, and what it then did."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed

from client.chunk import Observation
from client.endpoint import Endpoint
from client.errors import ProtocolError, ServerProblem
from client.images import ready_images, ready_state
from client.websocket_transport import Socket, packed
from server.wire.messages import (
    PlayAck,
    PlayError,
    PlaySealed,
    PlayStarted,
    read_play_answer,
)
from server.wire.problems import WireError

_SYNC: Final = packed({"type": "sync"})
# The server stops, or has sealed a silent episode: the connection is over, another goes on.
_OVER: Final = frozenset({"not-ready", "episode-sealed"})
_END: Final = packed({"type": "end"})


@final
@dataclass(frozen=True)
class RecordedEpisode:
    """One episode on the server, as its recorder last heard of it."""

    id: str
    received: int
    durable: int
    is_sealed: bool


@final
class PlayRecorder:
    """Sends the steps of one stretch of play. A context manager; for one thread.

    A step is sent at once and acknowledged later; `step` only waits when `window` steps are
    unacknowledged, so that a stalled server cannot fill the robot's memory. If the connection
    breaks, the recorder opens a new episode (a transition never crosses two) and sends again what
    was not acknowledged: no step is lost unless the server loses it, some may be there twice.

    Args:
        endpoint: The server.
        robot: Name of the robot spec; the server's default robot if None.
        meta: Kept with the episode; JSON values.
        jpeg_quality: Send images as JPEG of this quality; raw if None.
        window: Most steps that may be unacknowledged.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        robot: str | None = None,
        meta: Mapping[str, Any] | None = None,
        jpeg_quality: int | None = None,
        window: int = 64,
    ) -> None:
        self._robot, self._meta = robot, dict(meta or {})
        self._jpeg_quality = jpeg_quality
        self._window = window
        self._socket = Socket(endpoint, "/play", opened=self._begin)
        self._unacknowledged: deque[bytes] = deque()
        # Steps given up when one of them was refused: acknowledgements still count the others.
        self._given_up = 0
        self._episodes: list[RecordedEpisode] = []

    def __enter__(self) -> Self:
        self._socket.run(lambda _: None)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.end()
        finally:
            self._socket.close()

    @property
    def episodes(self) -> tuple[RecordedEpisode, ...]:
        """The episodes written so far; more than one if the connection broke."""
        return tuple(self._episodes)

    def step(
        self,
        observation: Observation,
        action: NDArray[np.floating] | list[float],
        *,
        t_ns: int | None = None,
    ) -> None:
        """Send one play step.

        Args:
            observation: What the robot saw before the action.
            action: The action that was executed after it [A], in the units of the spec.
            t_ns: When it was observed, on this machine's monotonic clock [ns]; now if None.

        Raises:
            ServerProblem: A step, this or an earlier one, was refused, or the store is full.
            ServerUnreachable: The connection broke and could not be made again in time.
        """
        message = packed(
            {
                "type": "step",
                "images": ready_images(observation, jpeg_quality=self._jpeg_quality),
                "state": ready_state(observation),
                "action": np.asarray(action, dtype=np.float32),
                "t_ns": time.monotonic_ns() if t_ns is None else t_ns,
                "instruction": observation.get("instruction"),
            }
        )
        sent = False

        def send(socket: Socket) -> None:
            nonlocal sent
            if not sent:
                self._unacknowledged.append(message)
                sent = True
                socket.look()
                self._send(socket, message)
            self._read_arrived(socket)
            if len(self._unacknowledged) >= self._window:
                self._synchronise(socket)

        self._run(send)

    def sync(self) -> RecordedEpisode:
        """Wait until the server has received every step sent, and say what is on its disk."""
        self._run(self._synchronise)
        return self._episodes[-1]

    def end(self) -> RecordedEpisode:
        """Seal the episode: nothing can be added to it any more. Twice is fine."""
        if not self._episodes or not self._episodes[-1].is_sealed:
            self._run(self._seal)
        return self._episodes[-1]

    def _run(self, exchange: Callable[[Socket], None]) -> None:
        try:
            self._socket.run(exchange)
        except ServerProblem as error:
            # The connection is over. What is too large would be so again.
            if error.code == "body-too-large":
                self._unacknowledged.clear()
            raise

    def _begin(self, socket: Socket) -> None:
        """First messages of a connection: a new episode, and what the last one did not get."""
        meta = self._meta
        if self._episodes:
            meta = {**meta, "continues": self._episodes[-1].id}
        socket.send(packed({"type": "start", "robot": self._robot, "meta": meta}))
        answer = _answer(socket.receive())
        if not isinstance(answer, PlayStarted):
            raise ProtocolError(f"expected the start of an episode, got {answer.type!r}")
        self._episodes.append(RecordedEpisode(answer.episode, 0, 0, is_sealed=False))
        self._given_up = 0
        for message in self._unacknowledged:
            socket.send(message)

    def _send(self, socket: Socket, message: bytes) -> None:
        try:
            socket.send(message)
        except ConnectionClosed:
            # A refusal may have arrived before the end: it says why.
            self._read_arrived(socket)
            raise

    def _read_arrived(self, socket: Socket) -> None:
        while (body := socket.poll()) is not None:
            self._note(body)

    def _synchronise(self, socket: Socket) -> None:
        self._read_arrived(socket)
        self._send(socket, _SYNC)
        self._note(socket.receive())
        while self._unacknowledged:
            self._note(socket.receive())

    def _seal(self, socket: Socket) -> None:
        self._send(socket, _END)
        while not self._episodes[-1].is_sealed:
            self._note(socket.receive())

    def _note(self, body: object) -> None:
        try:
            answer = _answer(body)
        except ServerProblem:
            # Which step was refused is not known, so what is unacknowledged is not either.
            self._given_up = max(0, self._given_up + len(self._unacknowledged) - 1)
            self._unacknowledged.clear()
            raise
        episode = self._episodes[-1]
        if isinstance(answer, PlaySealed):
            self._unacknowledged.clear()
            length = answer.length
            self._episodes[-1] = RecordedEpisode(episode.id, length, length, is_sealed=True)
        elif isinstance(answer, PlayAck):
            more = answer.received - episode.received
            of_given_up = min(more, self._given_up)
            self._given_up -= of_given_up
            for _ in range(min(more - of_given_up, len(self._unacknowledged))):
                self._unacknowledged.popleft()
            self._episodes[-1] = RecordedEpisode(
                episode.id, answer.received, answer.durable, is_sealed=False
            )


def _answer(body: object) -> PlayStarted | PlayAck | PlaySealed:
    try:
        answer = read_play_answer(body)
    except WireError as error:
        raise ProtocolError(f"the server's message on /play does not fit: {error}") from error
    if isinstance(answer, PlayError):
        if answer.problem.code in _OVER:
            raise ConnectionError(answer.problem.detail)
        raise ServerProblem.from_body(answer.problem.model_dump())
    return answer
