"""`/play`: what the robot saw and did, on its way to the disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response, WebSocket

from server.body import parse, read_body, read_value, reply, request_format
from server.play_steps import read_steps
from server.play_stream import PlayStream
from server.problems import ProblemError
from server.routes.openapi import EXAMPLE_IMAGE, problems, reply_body, request_body
from server.routes.query import KnownQueryRoute
from server.wire.messages import PlayReply, PlayRequest, read_request
from server.wire.operator import DeletedPlay, DeletePlay, EpisodeList

if TYPE_CHECKING:
    from selfalign.data.episode_reader import EpisodeInfo
    from selfalign.data.play_store import PlayStep
    from selfalign.data.spec import RobotSpec
    from server.body import Format
    from server.episode import Episode
    from server.runtime import Runtime

router = APIRouter(tags=["play"], route_class=KnownQueryRoute)

_EXAMPLE: Final[dict[str, Any]] = {
    "robot": "panda",
    "steps": [
        {
            "images": {"front": EXAMPLE_IMAGE},
            "state": [0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.8, 0.08],
            "action": [0.01, 0.0, -0.02, 0.08],
            "t_ns": 100_000_000,
        }
    ],
    "end": False,
}
_DELETE_EXAMPLE: Final[dict[str, Any]] = {
    "episodes": ["20261124T093015250-5f3a1c", "20261124T101502000-09be77"],
    "pinned": False,
}
_DELETED_EXAMPLE: Final[dict[str, Any]] = {
    "deleted": _DELETE_EXAMPLE["episodes"],
    "freed_bytes": 33_400_000,
}
_MOST_NAMES_BYTES: Final = 2**18


@router.get(
    "/play",
    operation_id="list_play",
    summary="Recorded play",
    response_class=Response,
    responses={
        200: reply_body(EpisodeList, "Episodes, oldest first, and the room that is left"),
        **problems("unknown-robot"),
    },
)
async def list_play(request: Request, robot: str | None = None) -> Response:
    """Every episode, also those that are being recorded; with `robot` those of one robot."""
    return reply(request, await asyncio.to_thread(_list, request.app.state.runtime, robot or None))


@router.post(
    "/play",
    operation_id="play",
    summary="Play steps in, durable watermark out",
    response_class=Response,
    openapi_extra={"requestBody": request_body(PlayRequest, _EXAMPLE)},
    responses={
        200: reply_body(PlayReply, "What has arrived and what is on disk"),
        **problems(
            "bad-message",
            "unknown-robot",
            "unknown-episode",
            "episode-sealed",
            "play-busy",
            "body-too-large",
            "unsupported-media-type",
            "bad-play-step",
            "bad-request",
            "overloaded",
            "store-full",
        ),
    },
)
async def play(request: Request) -> Response:
    """Add consecutive steps to an episode, a new one unless `episode` names one that is open.

    Either all steps of a request are taken or none. `durable` says how many steps of the episode
    survive a crash; a request without steps waits until all that was received is durable. With
    `end` the episode is sealed. One that gets no steps for half a minute is sealed by itself.
    """
    runtime: Runtime = request.app.state.runtime
    body_format = request_format(request)
    body = await read_body(request, runtime.settings.max_body_bytes)
    sent = await asyncio.to_thread(_read, body, body_format)
    episode, steps = await _episode_and_steps(runtime, sent)
    for step in steps:
        await runtime.ingest.add(episode, step)
        # Others get their turn: packing a large step takes a moment.
        await asyncio.sleep(0)
    if sent.end:
        runtime.ingest.end(episode)
        await runtime.ingest.sealed(episode)
    elif not steps and sent.episode is not None:
        await runtime.ingest.sync(episode)
    return reply(
        request,
        {
            "episode": episode.id,
            "received": episode.received,
            "durable": episode.durable,
            "sealed": episode.state == "sealed",
        },
    )


@router.post(
    "/play/delete",
    operation_id="delete_play",
    summary="Delete recorded episodes",
    response_class=Response,
    openapi_extra={"requestBody": request_body(DeletePlay, _DELETE_EXAMPLE)},
    responses={
        200: reply_body(DeletedPlay, "They are gone, their room is free", _DELETED_EXAMPLE),
        **problems(
            "bad-message",
            "bad-request",
            "unknown-episode",
            "episode-in-use",
            "body-too-large",
            "unsupported-media-type",
            "store-error",
            "overloaded",
        ),
    },
)
async def delete_play(request: Request) -> Response:
    """Delete sealed episodes: all that are named, or none where one must stay.

    One that is being recorded, or that a running alignment session reads, must stay; so must a
    pinned one, unless `pinned` is true. Versions of W that were aligned on them stay as they are.
    """
    runtime: Runtime = request.app.state.runtime
    sent = read_request(DeletePlay, await read_value(request, _MOST_NAMES_BYTES))
    return reply(request, await _delete(runtime, sent.episodes, pinned=sent.pinned))


@router.delete(
    "/play/{episode}",
    operation_id="delete_episode",
    summary="Delete one recorded episode",
    response_class=Response,
    responses={
        200: reply_body(DeletedPlay, "It is gone, its room is free"),
        **problems("bad-request", "unknown-episode", "episode-in-use", "store-error", "overloaded"),
    },
)
async def delete_episode(request: Request, episode: str, pinned: bool = False) -> Response:  # noqa: FBT001, FBT002 - a query parameter
    """Delete a sealed episode, as `POST /play/delete` does."""
    return reply(request, await _delete(request.app.state.runtime, [episode], pinned=pinned))


@router.websocket("/play")
async def play_stream(websocket: WebSocket) -> None:
    """Play as a stream: `start`, `step`..., `end`; see `docs/protocols.md`."""
    state = websocket.app.state
    await PlayStream(websocket, state.runtime, state.drain).run()


async def _episode_and_steps(runtime: Runtime, sent: PlayRequest) -> tuple[Episode, list[PlayStep]]:
    """The episode that a request adds to, and its steps, all of them checked."""
    if sent.episode is None:
        spec: RobotSpec = runtime.spec(sent.robot)
        steps = await asyncio.to_thread(read_steps, sent.steps, spec, after_t_ns=None)
        return await runtime.ingest.begin(spec, sent.meta), steps
    episode = runtime.ingest.find(sent.episode)
    if sent.robot not in (None, episode.spec.name):
        raise ProblemError(
            "bad-request",
            f"episode {episode.id} is of robot {episode.spec.name!r}, not {sent.robot!r}",
        )
    if sent.steps or not sent.end:
        episode.require_open()
    last_t_ns = episode.last_t_ns
    steps = await asyncio.to_thread(read_steps, sent.steps, episode.spec, after_t_ns=last_t_ns)
    return episode, steps


def _read(body: bytes, body_format: Format) -> PlayRequest:
    return read_request(PlayRequest, parse(body, body_format), code="bad-play-step")


async def _delete(runtime: Runtime, episodes: list[str], *, pinned: bool) -> dict[str, Any]:
    deleted = await runtime.ingest.delete(episodes, pinned=pinned)
    names = [name for name, _ in deleted]
    return {"deleted": names, "freed_bytes": sum(nbytes for _, nbytes in deleted)}


def _list(runtime: Runtime, robot: str | None) -> dict[str, Any]:
    found = runtime.ingest.recordings.recorded()
    episodes = [info for info in found.episodes if robot in (None, info.robot)]
    if not episodes and robot is not None:
        # Play may be left of a robot that is not served any more; of one unheard of there is none.
        runtime.spec(robot)
    return {
        "episodes": [_summary(info) for info in episodes],
        "free_bytes": found.free,
        "quota_bytes": runtime.ingest.config.quota_bytes,
        "used_bytes": found.used,
        "quarantined_bytes": found.quarantined,
    }


def _summary(info: EpisodeInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "robot": info.robot,
        "length": info.length,
        "seconds": round(info.seconds, 3),
        "sealed": info.sealed,
        "pinned": info.pinned,
        "created_at": info.created_at,
        "bytes": info.bytes,
    }
