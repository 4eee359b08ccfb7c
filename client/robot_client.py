"""Ask a server for action chunks, over its websocket or over HTTP."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, Literal, Self, final

import httpx
import numpy as np

from client.chunk import ActionChunk, Continuation, Observation
from client.endpoint import DEFAULT_URL, Endpoint
from client.errors import ProtocolError, ServerProblem
from client.http_transport import HttpTransport, read_body
from client.images import checked_quality, ready_images, ready_state
from client.play import PlayRecorder
from client.post_connection import PostConnection
from client.replies import checked, value_of
from client.websocket_transport import Socket, packed
from server.wire.codec import MSGPACK_MEDIA_TYPE
from server.wire.messages import ActReply, InfoReply

_MSGPACK: Final = {"content-type": MSGPACK_MEDIA_TYPE, "accept": MSGPACK_MEDIA_TYPE}


@final
class RobotClient:
    """One robot's connection to the policy. A context manager; not for several threads at once.

    Opens when first used, and again with back-off after the connection broke: asking twice for a
    chunk does no harm.

    Args:
        where: Address of the server, or an `Endpoint` with another patience.
        robot: Name of the robot spec to use; the server's default robot if None.
        transport: "websocket" (less overhead, one connection) or "http".
        jpeg_quality: Send images as JPEG of this quality (1-100), for a thin network; raw if None.
        http_transport: What carries all HTTP requests, `act` as well; a mock in tests.
    """

    def __init__(
        self,
        where: str | Endpoint = DEFAULT_URL,
        *,
        robot: str | None = None,
        transport: Literal["websocket", "http"] = "websocket",
        jpeg_quality: int | None = None,
        http_transport: httpx.BaseTransport | None = None,
    ) -> None:
        if transport not in ("websocket", "http"):
            raise ValueError(f"transport must be 'websocket' or 'http', got {transport!r}")
        self._endpoint = Endpoint.of(where)
        self._robot = robot
        self._jpeg_quality = checked_quality(jpeg_quality)
        self._uses_websocket = transport == "websocket"
        self._http = HttpTransport(self._endpoint, transport=http_transport)
        self._socket = Socket(self._endpoint, "/act/stream", opened=self._read_metadata)
        self._posts = None if http_transport else PostConnection(self._endpoint, "/act", _MSGPACK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. A call in flight in another thread fails."""
        self._socket.close()
        self._http.close()
        if self._posts is not None:
            self._posts.close()

    def info(self) -> InfoReply:
        """What the server is and serves: its model, its robots and their specs."""
        return checked(InfoReply, read_body(self._http.request("GET", "/info")))

    def act(
        self,
        observation: Observation,
        *,
        observed_at_s: float | None = None,
        observation_seq: int | None = None,
        w_version: int | None = None,
        seed: int | None = None,
        previous_action: np.ndarray | None = None,
        continuation: Continuation | None = None,
    ) -> ActionChunk:
        """Ask for the chunk that follows from an observation.

        Args:
            observation: Images [height, width, 3] uint8 by camera, state [S], instruction.
            observed_at_s: When it was taken, on this machine's monotonic clock; now if None.
            observation_seq: The caller's count of it.
            w_version: Use this version of W and not the active one.
            seed: Seed of the policy's noise, for repeatable answers.
            previous_action: The last command sent [A], for the server's limit on steps; a robot
                with targets goes on from it, before its first command from the pose that it holds.
            continuation: What is left of the chunk being executed, for the new one to continue.

        Raises:
            ServerProblem: The server refused; `is_transient` says whether to ask again.
            ServerUnreachable: No connection within the endpoint's patience.
            Disconnected: No reply in time.
            ProtocolError: The reply is none, or that of another request.
        """
        sent_s = time.monotonic()
        taken_s = sent_s if observed_at_s is None else observed_at_s
        fields = {
            "robot": self._robot,
            "images": ready_images(observation, jpeg_quality=self._jpeg_quality),
            "state": ready_state(observation),
            "instruction": observation.get("instruction"),
            "observed_at_s": taken_s,
            "observation_seq": observation_seq,
            "w_version": w_version,
            "seed": seed,
            "previous_action": previous_action,
        }
        message = packed(fields | _continuing(continuation))
        body = self._over_websocket(message) if self._uses_websocket else self._over_http(message)
        reply = checked(ActReply, body)
        if reply.observation_seq != observation_seq:
            raise ProtocolError(
                f"asked about observation {observation_seq}, got a reply about "
                f"{reply.observation_seq}"
            )
        return _chunk(reply, observed_at_s=taken_s, round_trip_s=time.monotonic() - sent_s)

    def play(self, *, meta: Mapping[str, Any] | None = None) -> PlayRecorder:
        """A recorder for one episode of play of this robot; use it as a context manager.

        Args:
            meta: Kept with the episode; JSON values.
        """
        return PlayRecorder(
            self._endpoint, robot=self._robot, meta=meta, jpeg_quality=self._jpeg_quality
        )

    def _over_websocket(self, message: bytes) -> Any:
        def exchange(socket: Socket) -> Any:
            socket.send(message)
            return socket.receive()

        body = self._socket.run(exchange)
        if isinstance(body, dict) and "error" in body:
            raise ServerProblem.from_body(body["error"])
        return body

    def _over_http(self, message: bytes) -> Any:
        if self._posts is not None:
            return value_of(*self._posts.post(message), url=self._posts.url)
        return read_body(
            self._http.request(
                "POST", "/act", content=message, headers=_MSGPACK, is_repeatable=True
            )
        )

    def _read_metadata(self, socket: Socket) -> None:
        """Take the frame that the server sends first; it must be taken before any reply."""
        metadata = socket.receive()
        if isinstance(metadata, dict) and "error" in metadata:
            raise ServerProblem.from_body(metadata["error"])


def _continuing(continuation: Continuation | None) -> dict[str, Any]:
    """The fields of real-time chunking; without it none, so that an older server understands."""
    if continuation is None:
        return {}
    return {
        "previous_actions": np.asarray(continuation.actions, dtype=np.float32),
        "inference_delay": continuation.inference_delay,
        "execution_horizon": continuation.execution_horizon,
    }


def _chunk(reply: ActReply, *, observed_at_s: float, round_trip_s: float) -> ActionChunk:
    return ActionChunk(
        actions=reply.actions,
        dt_s=reply.dt_s,
        observed_at_s=observed_at_s,
        robot=reply.robot,
        w_version=reply.w_version,
        w_sha256=reply.w_sha256,
        base_sha256=reply.base_sha256,
        observation_seq=reply.observation_seq,
        clamped_dims=tuple(reply.clamped_dims),
        timing=reply.timing.model_dump(),
        round_trip_s=round_trip_s,
    )
