"""Where the observations of one websocket are answered, one after the other."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, final

from server.act_call import ActMessage
from server.body import too_large
from server.problems import problem_of
from server.wire.codec import dump_json, pack

if TYPE_CHECKING:
    from server.body import Format
    from server.direct_line import DirectLine
    from server.engine import ActResult
    from server.runtime import Runtime


@final
class ActDesk:
    """Takes messages from a direct line; their answers, or why there is none, go back on it.

    Args:
        runtime: the running server.
        line: to the client.
        robot: the robot that the connection speaks for; a message may name another.
    """

    def __init__(self, runtime: Runtime, line: DirectLine, robot: str | None) -> None:
        self._runtime = runtime
        self._line = line
        self._robot = robot

    def take(self, body: bytes, body_format: Format) -> None:
        """Begin to answer one message."""
        limit_bytes = self._runtime.settings.max_body_bytes
        message = ActMessage(self._runtime, body, body_format, self._robot)
        try:
            if len(body) > limit_bytes:
                raise too_large(len(body), limit_bytes)
            self._runtime.engine.call(message.read, partial(self._finish, message))
        except Exception as error:  # noqa: BLE001 - the one edge of this connection; logged there
            self._refuse(message, error)

    def _finish(self, message: ActMessage, outcome: ActResult | Exception) -> None:
        if isinstance(outcome, Exception):
            self._refuse(message, outcome)
            return
        try:
            data = _written(message.reply(outcome, message.body_format), message.body_format)
        except Exception as error:  # noqa: BLE001 - nobody above; logged there
            self._refuse(message, error)
        else:
            self._send(message, data, 200)

    def _refuse(self, message: ActMessage, error: Exception) -> None:
        found = problem_of(error)
        data = _written({"error": found.model_dump()}, message.body_format)
        self._send(message, data, found.status)

    def _send(self, message: ActMessage, data: bytes, status: int) -> None:
        if self._line.answer(data, message.body_format):
            self._runtime.metrics.count_act(status, "websocket", message.timing_ms)


def _written(answer: Any, answer_format: Format) -> bytes:
    return pack(answer) if answer_format == "msgpack" else dump_json(answer)
