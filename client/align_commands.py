"""Start, watch and stop alignment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final
from urllib.parse import quote

from client.errors import Disconnected, ServerUnreachable
from client.events import read_events
from client.http_transport import HttpTransport, read_body
from client.replies import checked
from server.wire.operator import AlignEvent, AlignList, AlignRequest, AlignSession


@final
class AlignCommands:
    """`/align`. One session at a time runs on a server."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    def start(self, request: AlignRequest | None = None) -> AlignSession:
        """Begin to improve W.

        Args:
            request: Robot, play, budget, losses and promotion; by default 25 steps on the latest
                play of the default robot, and the result becomes active if it passes its gates.

        Raises:
            ServerProblem: `no-play-data`, `align-busy`, or another reason not to begin.
        """
        body = (request or AlignRequest()).model_dump(mode="json", exclude_none=True)
        return checked(AlignSession, read_body(self._http.request("POST", "/align", json=body)))

    def list(self) -> list[AlignSession]:
        """All sessions, newest first."""
        return checked(AlignList, read_body(self._http.request("GET", "/align"))).sessions

    def get(self, session: str) -> AlignSession:
        """One session as it is now."""
        return checked(
            AlignSession, read_body(self._http.request("GET", f"/align/{quote(session, safe='')}"))
        )

    def stop(self, session: str) -> AlignSession:
        """Ask a session to stop; it ends soon after, and W stays what it is."""
        reply = self._http.request(
            "POST", f"/align/{quote(session, safe='')}/stop", is_repeatable=True
        )
        return checked(AlignSession, read_body(reply))

    def watch(self, session: str, *, after: str | None = None) -> Iterator[AlignEvent]:
        """Everything that happens in a session, from its start or from event `after` on.

        Blocks between events; ends after the event `end`. A broken stream is taken up again
        where it broke.

        Raises:
            ServerProblem: `unknown-session`.
            ServerUnreachable: The stream broke and could not be taken up again in time.
        """
        last, idle = after, 0
        while True:
            headers = {"accept": "text/event-stream"} | ({"last-event-id": last} if last else {})
            try:
                with self._http.stream(
                    f"/align/{quote(session, safe='')}/events", headers=headers
                ) as response:
                    for event in read_events(response.iter_lines()):
                        last, idle = event.id or last, 0
                        yield event
                        if event.event == "end":
                            return
            except Disconnected:
                idle += 1
            else:
                idle += 1
            if idle > 3:
                raise ServerUnreachable(
                    url=self._http.endpoint.http_url,
                    reason=f"the events of session {session} end without an end",
                )
            self._http.endpoint.retry.clock.sleep_s(0.2 * idle)
