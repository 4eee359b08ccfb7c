"""What an operator does: look, record, align, choose W. All over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import httpx

from client.align_commands import AlignCommands
from client.endpoint import DEFAULT_URL, Endpoint
from client.http_transport import HttpTransport, read_body
from client.replies import checked
from client.w_commands import WCommands
from server.wire.messages import InfoReply, RobotList, RobotReply
from server.wire.operator import (
    AlignSession,
    DeletedPlay,
    DeletePlay,
    EpisodeList,
    SnapshotList,
)


@final
@dataclass(frozen=True)
class ServerStatus:
    """One look at a server."""

    info: InfoReply
    versions: tuple[SnapshotList, ...]
    """Of each robot."""
    sessions: tuple[AlignSession, ...]
    """Newest first."""
    play: EpisodeList


@final
class OperatorClient:
    """The operator's connection to a server. A context manager; safe from several threads.

    `align` starts, watches and stops sessions, `w` lists, fetches and switches versions.

    Args:
        where: Address of the server, or an `Endpoint` with another patience.
        http_transport: What carries the requests; a mock in tests.

    Every method raises `ServerUnreachable`, `Disconnected`, `ServerProblem` or `ProtocolError`.
    """

    def __init__(
        self,
        where: str | Endpoint = DEFAULT_URL,
        *,
        http_transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = HttpTransport(Endpoint.of(where), transport=http_transport)
        self.align = AlignCommands(self._http)
        self.w = WCommands(self._http)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def info(self) -> InfoReply:
        """The model, the robots and the settings of the server."""
        return checked(InfoReply, read_body(self._http.request("GET", "/info")))

    def status(self, *, robot: str | None = None) -> ServerStatus:
        """Everything worth a look, of one robot or of all."""
        info = self.info()
        names = [robot] if robot else [item.robot for item in info.robots]
        return ServerStatus(
            info=info,
            versions=tuple(self.w.list(robot=name) for name in names),
            sessions=tuple(self.align.list()),
            play=self.episodes(),
        )

    def episodes(self, *, robot: str | None = None) -> EpisodeList:
        """The play that the server has recorded, of one robot or of all, oldest first."""
        reply = self._http.request("GET", "/play", params={"robot": robot})
        return checked(EpisodeList, read_body(reply))

    def delete_episodes(self, episodes: Sequence[str], *, pinned: bool = False) -> DeletedPlay:
        """Delete recorded episodes: all of them, or none where one must stay.

        Args:
            episodes: Their names.
            pinned: Delete those that are pinned, too.

        Raises:
            ServerProblem: `unknown-episode`, or `episode-in-use` for one that is being recorded,
                aligned on or pinned.
        """
        body = DeletePlay(episodes=list(episodes), pinned=pinned).model_dump()
        return checked(
            DeletedPlay, read_body(self._http.request("POST", "/play/delete", json=body))
        )

    def robots(self) -> RobotList:
        """The robots that the server knows, with their specs."""
        return checked(RobotList, read_body(self._http.request("GET", "/robots")))

    def add_robot(self, spec: Mapping[str, Any]) -> RobotReply:
        """Make a robot known. The same spec again is fine, another of the same name is refused.

        Args:
            spec: Its cameras, state and action dimensions with units and limits, and its rate.
        """
        reply = self._http.request("POST", "/robots", json=dict(spec), is_repeatable=True)
        return checked(RobotReply, read_body(reply))
