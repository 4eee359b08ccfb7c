"""Why a session cannot be started or found."""

from __future__ import annotations

from selfalign.errors import SelfAlignError


class AlignBusy(SelfAlignError):
    """Another session is running."""

    code = "align-busy"
    status = 409

    def __init__(self, session: str) -> None:
        super().__init__(
            f"session {session} is running; wait for its end, or stop it "
            f"(POST /align/{session}/stop)"
        )
        self.extra = {"session": session}


class UnknownSession(SelfAlignError):
    """There is no session of this id."""

    code = "unknown-session"
    status = 404

    def __init__(self, session: str) -> None:
        super().__init__(f"no alignment session {session!r}; GET /align lists them")
