"""Server-sent events, line by line (the WHATWG format)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from client.errors import ProtocolError
from client.replies import checked
from server.wire.operator import AlignEvent


def read_events(lines: Iterable[str]) -> Iterator[AlignEvent]:
    """The events of a stream; comments (pings) and events without data are passed over.

    Raises:
        ProtocolError: An event's data is not a JSON object.
    """
    fields: dict[str, str] = {}
    data: list[str] = []
    for line in lines:
        if line == "":
            if data:
                yield _event(fields, "\n".join(data))
            # The id stays in force until another is sent.
            fields, data = {"id": fields.get("id", "")}, []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name in {"id", "event"}:
            fields[name] = value


def _event(fields: dict[str, str], data: str) -> AlignEvent:
    try:
        value: Any = json.loads(data)
    except ValueError as error:
        raise ProtocolError(f"an event's data is not JSON: {data[:80]!r}") from error
    return checked(
        AlignEvent, {"id": fields.get("id", ""), "event": fields.get("event"), "data": value}
    )
