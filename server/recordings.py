"""What has been recorded: list it, keep it while somebody reads it, delete it.

Lists are read from the disk. The recorder process alone writes to the store, so it alone decides
what may be deleted: what is held and what is deleted is asked of it, one after the other, and no
episode goes between the moment when a session chose it and the one when it is read.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from selfalign.data.episode_id import EPISODE_ID
from selfalign.data.play_store import PlayStore
from server.episode import PlayError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from selfalign.data.episode_reader import EpisodeInfo
    from server.signals import Signal

logger = logging.getLogger(__name__)

Message = dict[str, Any]

_IN_USE: Final = {
    "recorded": "is being recorded; end it first (it also ends when its client is silent, and one "
    "that the disk refused to seal when the disk takes it)",
    "unfinished": "was left unfinished when the disk refused; the next start of the server seals "
    "it or sets it aside",
    "held": "is being read by alignment session {session}; wait for its end, or stop it "
    "(POST /align/{session}/stop, selfalign-client align stop {session})",
    "released": "was being read by an alignment session until just now; try again",
    "pinned": 'is pinned; ask with "pinned": true (selfalign-client play delete --pinned) to '
    "delete it all the same",
}
_LOOK: Final = "GET /play (selfalign-client play list) lists what there is"


@final
@dataclass(frozen=True)
class Recorded:
    """What is in the store, oldest first, and its sizes [byte]. `used` counts against the quota."""

    episodes: tuple[EpisodeInfo, ...]
    used: int
    quarantined: int
    free: int


@final
class Recordings:
    """The episodes of a play store, seen from the server. For any thread.

    Args:
        root: The play store.
        send: Sends a message to the recorder; False where none runs.
        changed: Told when a recorder has started.
        patience_s: How long an answer of the recorder is waited for.
    """

    def __init__(
        self, root: Path, *, send: Callable[[Message], bool], changed: Signal, patience_s: float
    ) -> None:
        # Remembers what it has read of sealed episodes; for one thread at a time.
        self._reader = PlayStore.reader(root)
        self._reading = threading.Lock()
        self._send = send
        self._changed = changed
        self._patience_s = patience_s
        self._lock = threading.Lock()
        # What is held is told as a whole, so it must be told in the order in which it changed.
        self._telling = threading.Lock()
        self._held: dict[str, tuple[str, ...]] = {}
        self._asked: dict[int, Future[Message]] = {}
        self._numbers = itertools.count(1)

    def recorded(self) -> Recorded:
        """Return all episodes, also those that are being recorded. Blocking."""
        with self._reading:
            episodes = tuple(self._reader.episodes())
            quarantined = self._reader.quarantined_bytes()
            used = sum(info.bytes for info in episodes) + quarantined
            return Recorded(episodes, used, quarantined, self._reader.free_bytes())

    def held(self) -> list[str]:
        """Return the episodes that must not be deleted since somebody reads them."""
        with self._lock:
            return sorted({episode for held in self._held.values() for episode in held})

    def hold(self, session: str, episodes: tuple[str, ...]) -> None:
        """Keep what a session reads from being deleted. Blocking, until the recorder knows.

        Those deleted before are not there: look after the call whether they are.
        """
        with self._telling:
            with self._lock:
                self._held[session] = episodes
            asked = self._ask({"type": "hold", "episodes": self.held()})
        if asked is None:
            # A recorder that does not run deletes nothing, and is told when it starts.
            return
        try:
            asked.result(self._patience_s)
        except (TimeoutError, PlayError):
            logger.warning("the recorder has not confirmed what session %s reads", session)

    def release(self, session: str) -> None:
        """Let go what a session has read. Waits for nobody."""
        with self._telling:
            with self._lock:
                was_held = self._held.pop(session, None) is not None
            if was_held:
                self._send({"type": "hold", "request": 0, "episodes": self.held()})

    async def delete(
        self, episodes: Sequence[str], *, pinned: bool = False
    ) -> list[tuple[str, int]]:
        """Delete sealed episodes: all of them, or none where one must not be deleted.

        Returns:
            Name and size on disk of each [byte].

        Raises:
            PlayError: `unknown-episode`, `episode-in-use`, `store-error`, or `overloaded` where
                the recorder does not answer.
        """
        wrong = next((name for name in episodes if not EPISODE_ID.fullmatch(name)), None)
        if wrong is not None:
            raise _unknown(f"no episode can have the name {wrong[:80]!r}")
        message = {"type": "delete", "episodes": list(episodes), "pinned": pinned}
        asked: list[Future[Message]] = []
        await self._changed.wait_for(lambda: self._is_asked(message, asked), self._patience_s)
        if not asked:
            why = "the recorder is busy" if self._asked else "the recorder does not run"
            raise _no_answer(why, self._patience_s)
        try:
            async with asyncio.timeout(self._patience_s):
                answer = await asyncio.wrap_future(asked[0])
        except TimeoutError:
            raise _no_answer("the recorder is busy", self._patience_s) from None
        if "code" in answer:
            raise self._refusal(answer)
        return [(episode, nbytes) for episode, nbytes in answer["deleted"]]

    # What the owner of the recorder process tells.

    def hear(self, answer: Message) -> None:
        """Take an answer of the recorder."""
        with self._lock:
            asked = self._asked.pop(answer["request"], None)
        if asked is not None:
            asked.set_result(answer)

    def recorder_ended(self) -> None:
        """No answer comes any more to what was asked of the recorder."""
        with self._lock:
            lost, self._asked = list(self._asked.values()), {}
        for asked in lost:
            asked.set_exception(_no_answer("the recorder ended meanwhile", 0.0))

    def _ask(self, message: Message) -> Future[Message] | None:
        """Send a message that is answered; None where no recorder runs."""
        asked: Future[Message] = Future()
        # So that nobody who stops waiting can cancel it: it is answered once, here.
        asked.set_running_or_notify_cancel()
        number = next(self._numbers)
        with self._lock:
            self._asked[number] = asked
        if self._send({**message, "request": number}):
            return asked
        with self._lock:
            self._asked.pop(number, None)
        return None

    def _is_asked(self, message: Message, asked: list[Future[Message]]) -> bool:
        # One thing at a time: a recorder that hangs must not fill its pipe, since the next message
        # would then wait on the event loop.
        if not asked and not self._asked and (sent := self._ask(message)) is not None:
            asked.append(sent)
        return bool(asked)

    def _refusal(self, answer: Message) -> PlayError:
        code = answer["code"]
        if code == "unknown-episode":
            return _unknown(answer["message"])
        if code != "episode-in-use":
            return PlayError(code, 500, f"{answer['message']}; {_LOOK}")
        episode, use = answer["episode"], answer["use"]
        session = self._session_of(episode) if use == "held" else None
        why = _IN_USE["released" if use == "held" and session is None else use]
        extra = {"session": session} if session else {}
        detail = f"episode {episode} {why.format(session=session)}. Nothing is deleted"
        return PlayError(code, 409, detail, episode=episode, use=use, **extra)

    def _session_of(self, episode: str) -> str | None:
        with self._lock:
            return next((s for s, held in self._held.items() if episode in held), None)


def _unknown(what: str) -> PlayError:
    return PlayError("unknown-episode", 404, f"{what}; nothing is deleted. {_LOOK}")


def _no_answer(why: str, waited_s: float) -> PlayError:
    return PlayError(
        "overloaded",
        503,
        f"{why} (waited {waited_s:g} s); look whether the episodes are there, and try again",
    )
