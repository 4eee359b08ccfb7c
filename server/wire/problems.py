"""Errors on the wire: RFC 9457 problem details, one code for each kind of trouble."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"

# code -> (HTTP status, title). The codes are the stable part; clients branch on them.
PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "bad-message": (400, "The message could not be read"),
    "unknown-robot": (404, "No such robot"),
    "unknown-session": (404, "No such alignment session"),
    "unknown-version": (404, "No such version of W"),
    "unknown-episode": (404, "No such episode"),
    "cross-origin": (403, "Pages of other sites may not use this server"),
    "unknown-host": (421, "This server is not known by that name"),
    "not-found": (404, "No such resource"),
    "method-not-allowed": (405, "This method is not supported here"),
    "not-acceptable": (406, "None of the accepted media types can be produced"),
    "no-play-data": (409, "There is no play data to align on"),
    "align-busy": (409, "Another alignment session is running"),
    "wrong-base": (409, "This W belongs to another base model"),
    "wrong-spec": (409, "This W was aligned for another spec of the robot"),
    "w-not-resident": (409, "This version of W is not in memory"),
    "version-rejected": (409, "The gates rejected this version of W"),
    "nothing-to-roll-back": (409, "No earlier version of W was active"),
    "play-busy": (409, "Another client records on this robot"),
    "episode-sealed": (409, "The episode is sealed"),
    "episode-in-use": (409, "The episode is in use"),
    "alignment-diverged": (409, "The alignment diverged"),
    "robot-exists": (409, "A robot of that name has another spec"),
    "body-too-large": (413, "The message is too large"),
    "unsupported-media-type": (415, "The media type is not supported"),
    "bad-request": (422, "A field of the request is not valid"),
    "bad-observation": (422, "The observation does not fit the robot spec"),
    "bad-image": (422, "An image could not be used"),
    "bad-play-step": (422, "A play step does not fit the robot spec"),
    "bad-snapshot": (422, "The snapshot of W could not be used"),
    "bad-spec": (422, "The robot spec could not be used"),
    "store-error": (500, "The play store failed"),
    "internal-error": (500, "The server failed"),
    "non-finite-action": (500, "The policy gave an action that is not finite"),
    "overloaded": (503, "The server is busy"),
    "not-ready": (503, "The server is not ready"),
    "store-full": (507, "The play store is full"),
}


MAKE_ROOM: Final = (
    "selfalign-client play list shows what recorded play takes, selfalign-client play delete NAME "
    "frees it (POST /play/delete)"
)

# What to do, for the page about a code; most details say it themselves.
ADVICE: Final[dict[str, str]] = {
    "store-full": f"{MAKE_ROOM}. When play is recorded the oldest episodes go by themselves, "
    "except those that are pinned (play delete --pinned) or being aligned on. "
    "SELFALIGN_QUOTA_BYTES sets how much play may take, SELFALIGN_MIN_FREE_BYTES what must stay "
    "free on the disk.",
    "wrong-spec": "A W serves only under the robot spec that it was aligned for: cameras, state, "
    "action, rate, targets with their steps, and kinematics; name, default instruction and other "
    "steps do not count. Start the server with that spec again and it serves as before, or record "
    "play and align under the present one (selfalign-client align start). GET /w says of every "
    "version whether it can serve.",
    "episode-in-use": "An episode stays while it is being recorded (end it), while an alignment "
    "session reads it (selfalign-client align stop ends that) and while it is pinned "
    "(selfalign-client play delete --pinned NAME).",
}


class Problem(BaseModel):
    """One error, as the body of a reply with media type `application/problem+json`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = Field(description="URI reference of the kind of problem, `/problems/<code>`")
    title: str = Field(description="The kind of problem, in words")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="What was wrong, what was expected and what to do")
    code: str = Field(description="The kind of problem, for programs")


class WireError(Exception):
    """A message that cannot be read or used.

    Args:
        code: one of `PROBLEMS`.
        detail: what was wrong, the value, what was expected.
        extra: further members of the problem, JSON values.
    """

    def __init__(self, code: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.extra = extra

    @property
    def status(self) -> int:
        """HTTP status of this kind of problem."""
        return problem_status(self.code)


def problem_status(code: str) -> int:
    """HTTP status of a problem code, 500 for one that is not listed."""
    return PROBLEMS.get(code, (500, ""))[0]


def problem(code: str, detail: str, *, status: int | None = None, **extra: Any) -> Problem:
    """Build the problem of a code; `status` overrides the one that the code stands for."""
    default_status, title = PROBLEMS.get(code, (500, code.replace("-", " ").capitalize()))
    return Problem(
        type=f"/problems/{code}",
        title=title,
        status=status or default_status,
        detail=detail,
        code=code,
        **extra,
    )
