"""One episode of play as the server knows it, and why it may take no more steps."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, final

from selfalign.errors import SelfAlignError
from server.wire.problems import MAKE_ROOM

if TYPE_CHECKING:
    from selfalign.data.spec import RobotSpec


class PlayError(SelfAlignError):
    """Play that cannot be taken. `code` is that of the problem, `status` its HTTP status."""

    def __init__(self, code: str, status: int, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.extra = extra
        self.headers = {"Retry-After": "1"} if status == 503 else {}


@final
class Episode:
    """What the server knows of one episode. Written under `lock`, read by anyone."""

    def __init__(self, episode_id: str, spec: RobotSpec) -> None:
        self.id = episode_id
        self.spec = spec
        self.received = 0
        self.durable = 0
        self.started = False
        self.ending = False
        self.state: Literal["open", "sealed", "failed"] = "open"
        self.error: PlayError | None = None
        self.last_t_ns: int | None = None
        self.lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether steps can be added."""
        return self.state == "open" and not self.ending

    def require_open(self) -> None:
        """Raise the reason why no steps can be added, if there is one."""
        if self.error is not None:
            raise self.error
        if not self.is_open:
            raise PlayError(
                "episode-sealed",
                409,
                f"episode {self.id} is sealed at {self.durable} steps (ended, or silent for too "
                "long); start a new one",
            )


def failure(message: dict[str, Any]) -> PlayError:
    """Return the error for an episode that the recorder gave up."""
    status = {"store-full": 507, "episode-sealed": 409}.get(message["code"], 500)
    detail = f"episode {message['episode']}: {message['message']}"
    if message["code"] == "store-full":
        detail = f"{detail}. {MAKE_ROOM}"
    return PlayError(message["code"], status, detail, durable=message["length"])


def recorder_behind(waited_s: float) -> PlayError:
    """Return the error for a recorder that does not keep up, or does not run."""
    return PlayError(
        "overloaded",
        503,
        f"the recorder is behind or is being started again (waited {waited_s:g} s); try again",
    )
