"""A helper process that says what a test makes it say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.supervisor import ChildSpec


class FakeProcess:
    """Stands in for `server.supervisor.Supervisor`."""

    def __init__(
        self,
        spec: ChildSpec,
        *,
        on_message: Callable[[dict[str, Any]], None],
        on_exit: Callable[[str], None],
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self.tell = on_message
        self.die = on_exit
        self.on_start = on_start
        self.sent: list[dict[str, Any]] = []
        self.is_closed = False
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        self.on_start()

    def send(self, message: dict[str, Any]) -> bool:
        self.sent.append(message)
        return True

    def close(self, *, at_once: bool = False) -> None:
        self.is_closed = True

    def healthy(self) -> dict[str, Any]:
        return {"running": True}
