"""Alignment sessions on disk, one small JSON file each: a restart knows what was running."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

from pydantic import ValidationError

from server.durable import quarantine, write_atomically
from server.wire.operator import AlignSession

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


@final
class SessionStore:
    """A directory of sessions. Identifiers sort by time.

    Args:
        directory: Where they are; created if need be.
        keep: Older ones than these many are deleted when the store is loaded.
    """

    def __init__(self, directory: Path, *, keep: int = 200) -> None:
        self.directory = directory
        self._keep = keep
        directory.mkdir(parents=True, exist_ok=True)

    def save(self, session: AlignSession) -> None:
        """Write a session. A full disk is logged, not raised: alignment goes on without."""
        try:
            write_atomically(self._path(session.id), session.model_dump_json(indent=1).encode())
        except OSError:
            logger.exception("session %s could not be saved", session.id)

    def load(self) -> list[AlignSession]:
        """Read all sessions, oldest first. Those that ran when the server ended are interrupted."""
        paths = sorted(self.directory.glob("*.json"))
        for old in paths[: -self._keep]:
            old.unlink()
        sessions = []
        for path in paths[-self._keep :]:
            try:
                session = AlignSession.model_validate_json(path.read_bytes())
            except ValidationError as error:
                logger.warning("%s is set aside: %s", path, error)
                quarantine(path)
                continue
            sessions.append(self._interrupted(session))
        return sessions

    def candidate_path(self, session_id: str) -> Path:
        """Where the worker writes the candidate of a session."""
        return self.directory / f"{session_id}.safetensors"

    def remove_leftovers(self) -> None:
        """Delete candidates that no registry took over."""
        for path in self.directory.glob("*.safetensors*"):
            path.unlink()

    def _path(self, session_id: str) -> Path:
        return self.directory / f"{session_id}.json"

    def _interrupted(self, session: AlignSession) -> AlignSession:
        if session.is_final:
            return session
        error = f"the server ended while the session was {session.state}; start a new session"
        ended = session.model_copy(update={"state": "interrupted", "error": error})
        self.save(ended)
        return ended
