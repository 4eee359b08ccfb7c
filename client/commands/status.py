"""`status`: what a server is, what it serves, and what it is doing."""

from __future__ import annotations

import argparse
import json
from typing import Any

from client.commands.align import ending
from client.commands.play import play_line
from client.commands.robot import robot_table
from client.endpoint import Endpoint
from client.operator_client import OperatorClient, ServerStatus
from client.tables import duration
from server.wire.messages import InfoReply
from server.wire.operator import AlignSession


def status(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Print what the server is, serves and does."""
    with OperatorClient(endpoint) as operator:
        found = operator.status(robot=arguments.robot)
    if arguments.json:
        print(json.dumps(_plain(found)))
        return 0
    info = found.info
    print(f"{endpoint.http_url}  {info.name} {info.version}, up {duration(info.uptime_s)}")
    print(f"{_model(info)}\n{_helpers(info)}\n")
    print(robot_table(info.robots, default=info.default_robot))
    print("\n" + "\n".join([*_recording(found), _alignment(found.sessions), play_line(found.play)]))
    return 0


def _model(info: InfoReply) -> str:
    model = info.model
    return (
        f"model {model.variant} ({model.flavour}): {model.parameters:,} parameters, "
        f"{model.w_parameters:,} in W, images {model.image_size} px, chunks of {model.horizon} "
        f"actions, {model.device}, base {model.base_sha256[:12]}"
    )


def _helpers(info: InfoReply) -> str:
    """The two processes beside the one that serves, and whether they keep ending."""
    align = info.align_worker
    if info.align_mode == "inproc":
        aligner = "alignment in the server itself"
    else:
        aligner = f"align worker {_helper(align, is_ready=align.get('ready', True))}"
    return f"recorder {_helper(info.recorder)}; {aligner}"


def _helper(process: dict[str, Any], *, is_ready: bool = True) -> str:
    restarts, ended = process.get("restarts", 0), process.get("last_exit")
    if process.get("running"):
        state = "ready" if is_ready else "is loading"
    else:
        state = "is being started again" if ended else "starts when it is needed"
    times = "once" if restarts == 1 else f"{restarts} times"
    return f"{state}, restarted {times} (last: {ended})" if restarts else state


def _recording(found: ServerStatus) -> list[str]:
    return [
        f"recording {episode.robot}: episode {episode.id}, {episode.length} steps on disk"
        for episode in found.play.episodes
        if not episode.sealed
    ]


def _alignment(sessions: tuple[AlignSession, ...]) -> str:
    """The session that runs, or how the last one ended."""
    running = [session for session in sessions if not session.is_final]
    if running:
        session = running[0]
        steps = f" of {session.steps}" if session.steps else ""
        detail = f" ({session.detail})" if session.detail else ""
        return (
            f"aligning {session.robot}: session {session.id} {session.state}, step "
            f"{session.step}{steps}{detail}; follow it: selfalign-client align watch"
        )
    if not sessions:
        return "no alignment yet; begin one with: selfalign-client align start"
    return f"last alignment: {sessions[0].robot}, {ending(sessions[0])}"


def _plain(found: ServerStatus) -> dict[str, Any]:
    return {
        "info": found.info.model_dump(mode="json"),
        "w": [item.model_dump(mode="json") for item in found.versions],
        "sessions": [item.model_dump(mode="json") for item in found.sessions],
        "play": found.play.model_dump(mode="json"),
    }
