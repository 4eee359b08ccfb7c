"""What operators ask and are answered: recorded play, `/align` and `/w`."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from server.wire.fields import RobotName
from server.wire.messages import Reply, Request

DEFAULT_STEPS: Final = 25
"""Steps of a session that asks for no other budget; the number of `selfalign.align.aligner`."""

SessionState = Literal[
    "queued", "running", "gating", "succeeded", "rejected", "failed", "stopped", "interrupted"
]
FINAL_STATES: frozenset[str] = frozenset(
    {"succeeded", "rejected", "failed", "stopped", "interrupted"}
)

SnapshotStatus = Literal["base", "active", "candidate", "retired", "rejected"]


class EpisodeSummary(Reply):
    """One recorded episode."""

    id: str
    robot: str
    length: int = Field(description="Steps; while it is being recorded, those on disk")
    seconds: float = Field(0.0, description="What its steps take at the rate of the robot")
    sealed: bool = Field(description="False while it is being recorded")
    pinned: bool = Field(default=False, description="Kept from being deleted when room is needed")
    created_at: str
    bytes: int


class EpisodeList(Reply):
    """`GET /play`. The sizes are those of the whole store, of all robots."""

    episodes: list[EpisodeSummary]
    free_bytes: int = Field(description="Free on the disk")
    quota_bytes: int
    used_bytes: int | None = Field(
        None, description="What counts against the quota: all episodes, and quarantine"
    )
    quarantined_bytes: int = Field(0, description="What recovery has set aside after a crash")


class DeletePlay(Request):
    """`POST /play/delete`: delete recorded episodes."""

    episodes: list[str] = Field(min_length=1, max_length=1000, description="Names of `GET /play`")
    pinned: bool = Field(default=False, description="Delete those that are pinned, too")


class DeletedPlay(Reply):
    """What is deleted."""

    deleted: list[str]
    freed_bytes: int


class EpisodeSource(Request):
    """Align on these recorded episodes."""

    episodes: list[str] = Field(min_length=1, max_length=1000)


class Budget(Request):
    """How long to align: a number of steps, or of seconds."""

    steps: int | None = Field(None, ge=1, le=100_000)
    seconds: float | None = Field(None, gt=0, le=86_400, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_of_both(self) -> Budget:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError('give either {"steps": N} or {"seconds": S}')
        return self


class LossSwitches(Request):
    """Which alignment losses are on."""

    inverse_dynamics: bool = True
    dynamics: bool = True
    perception: bool = True

    @model_validator(mode="after")
    def _at_least_one(self) -> LossSwitches:
        if not (self.inverse_dynamics or self.dynamics or self.perception):
            raise ValueError("switch on at least one of inverse_dynamics, dynamics, perception")
        return self


class AlignRequest(Request):
    """`POST /align`: improve W on play."""

    robot: RobotName | None = None
    source: Literal["live"] | EpisodeSource = Field(
        "live", description="The latest play, or recorded episodes"
    )
    budget: Budget = Field(default_factory=lambda: Budget(steps=DEFAULT_STEPS, seconds=None))
    losses: LossSwitches = Field(default_factory=LossSwitches)
    promotion: Literal["auto", "manual"] = Field(
        "auto", description="auto: the candidate becomes active if it passes the gates"
    )
    note: str = Field("", max_length=500)

    @field_validator("source", mode="before")
    @classmethod
    def _live_or_episodes(cls, value: object) -> object:
        if value == "live" or isinstance(value, EpisodeSource):
            return value
        try:
            return EpisodeSource.model_validate(value)
        except ValidationError:
            raise ValueError(
                f'got {value!r:.80}, expected "live" (the latest play) or '
                '{"episodes": ["NAME", ...]}, 1 to 1000 names of GET /play'
            ) from None


class GateCheckMessage(Reply):
    """One check of a candidate."""

    name: str
    passed: bool
    value: float | None = None
    limit: float | None = None
    message: str = ""


class GatesMessage(Reply):
    """All checks of a candidate."""

    passed: bool
    checks: list[GateCheckMessage] = Field(default_factory=list)


class HeldOut(Reply):
    """Alignment loss on play that was not trained on."""

    before: float | None = None
    after: float | None = None


class AlignSession(Reply):
    """One alignment session."""

    id: str
    robot: str
    state: SessionState
    detail: str = Field("", description="What it waits for or does, where the state does not say")
    promotion: Literal["auto", "manual"] = "auto"
    step: int = 0
    steps: int | None = Field(None, description="Steps of the budget; none if it is in seconds")
    seconds: float | None = Field(None, description="Seconds of the budget; none if it is in steps")
    elapsed_s: float = 0.0
    play_steps: int = 0
    losses: dict[str, float] = Field(default_factory=dict)
    held_out: HeldOut | None = None
    candidate: int | None = Field(None, description="Version of W that came out")
    gates: GatesMessage | None = None
    error: str | None = None
    note: str = ""
    created_at: str | None = None

    @property
    def is_final(self) -> bool:
        """True once the session will not change any more."""
        return self.state in FINAL_STATES


class AlignList(Reply):
    """`GET /align`, newest first."""

    sessions: list[AlignSession]


class SnapshotInfo(Reply):
    """One version of W."""

    version: int
    robot: str | None = None
    parent: int | None = None
    sha256: str
    base_sha256: str
    created_at: str
    session: str | None = None
    steps: int = 0
    play_steps: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    note: str = ""
    spec_sha256: str | None = Field(
        None,
        description="What of a robot spec it was aligned for, as `spec_sha256` of `GET /robots`; "
        "none for the base, which fits every spec",
    )
    status: SnapshotStatus
    cannot_serve: str | None = Field(
        None, description="Why it is kept but not served, and what to do; none if it can serve"
    )
    nbytes: int


class SnapshotList(Reply):
    """`GET /w`."""

    robot: str
    active: int
    versions: list[SnapshotInfo]


class SwapReply(Reply):
    """`POST /w/{version}/activate` and `POST /w/rollback`."""

    robot: str
    active: int
    previous: int | None = None
    w_sha256: str


class AlignEvent(Reply):
    """One server-sent event of `/align/{id}/events`."""

    id: str
    event: Literal["state", "progress", "gates", "swap", "end", "gap"]
    data: dict[str, Any]
