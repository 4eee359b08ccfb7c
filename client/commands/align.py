"""`align`: start, watch, stop and list sessions."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from client.endpoint import Endpoint
from client.errors import ClientError
from client.operator_client import OperatorClient
from client.tables import duration, table
from server.wire.operator import (
    DEFAULT_STEPS,
    AlignEvent,
    AlignRequest,
    AlignSession,
    Budget,
    EpisodeSource,
    LossSwitches,
)


def start(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Begin a session, and follow it if asked to."""
    with OperatorClient(endpoint) as operator:
        session = operator.align.start(_request(arguments))
        print(f"session {session.id}: {session.state}, robot {session.robot}")
        if arguments.follow:
            return _follow(operator, session)
        print(f"follow it with: selfalign-client align watch {session.id}")
    return 0


def watch(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Follow a session until it ends. Code 1 if it did not succeed."""
    with OperatorClient(endpoint) as operator:
        return _follow(operator, _session(operator, arguments.session))


def stop(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Ask a session to stop."""
    with OperatorClient(endpoint) as operator:
        session = operator.align.stop(_session(operator, arguments.session).id)
    print(f"session {session.id}: {session.state}")
    return 0


def list_sessions(endpoint: Endpoint, _: argparse.Namespace) -> int:
    """Print all sessions."""
    with OperatorClient(endpoint) as operator:
        sessions = operator.align.list()
    rows = [
        [
            item.id,
            item.robot,
            item.state,
            item.step,
            item.play_steps,
            duration(item.elapsed_s),
            item.held_out.before if item.held_out else None,
            item.held_out.after if item.held_out else None,
            item.candidate,
        ]
        for item in sessions
    ]
    head = ["session", "robot", "state", "steps", "play", "time", "loss before", "after", "W"]
    print(table(head, rows))
    return 0


def progress(events: Iterable[AlignEvent], *, total: int | None, quiet: bool = False) -> None:
    """Show a session's events as a bar, until they end.

    Args:
        events: From `AlignCommands.watch`.
        total: Steps of the budget, if it is in steps.
        quiet: Draw nothing.
    """
    with tqdm(total=total, desc="align", unit="step", leave=False, disable=quiet) as bar:
        for event in events:
            if event.event == "progress":
                bar.update(int(event.data.get("step", bar.n)) - bar.n)
                bar.set_postfix(_shown_losses(event.data.get("losses", {})), refresh=False)
            elif event.event == "state":
                data = event.data
                bar.set_description(str(data.get("detail") or data.get("state", "align")))


def summary(session: AlignSession) -> str:
    """How a session ended, in a few lines."""
    lines = [
        f"session {session.id}: {session.state} after {session.step} steps "
        f"and {duration(session.elapsed_s)}, on {session.play_steps} play steps"
    ]
    held_out = session.held_out
    if held_out and held_out.before is not None and held_out.after is not None:
        lines.append(f"held-out loss {held_out.before:.4g} -> {held_out.after:.4g}")
    checks = session.gates.checks if session.gates else []
    refusals = [f"gate {c.name} refused it: {c.message}" for c in checks if not c.passed]
    lines.extend(refusals)
    # The error of a rejected session repeats what its gates say.
    if session.error and not (refusals and session.state == "rejected"):
        lines.append(session.error)
    if session.candidate is not None:
        lines.append(f"W version {session.candidate}{_what_next(session)}")
    return "\n".join(lines)


def _what_next(session: AlignSession) -> str:
    if session.state != "succeeded":
        return " is kept, but does not serve"
    if session.promotion == "auto":
        return " is active"
    return f" is ready: selfalign-client w activate {session.candidate} --robot {session.robot}"


def _follow(operator: OperatorClient, session: AlignSession) -> int:
    progress(operator.align.watch(session.id), total=session.steps)
    ended = operator.align.get(session.id)
    print(summary(ended))
    return 0 if ended.state == "succeeded" else 1


def _session(operator: OperatorClient, session: str | None) -> AlignSession:
    if session is not None:
        return operator.align.get(session)
    newest = operator.align.list()
    if not newest:
        raise ClientError("no session yet; begin one with: selfalign-client align start")
    return newest[0]


def _request(arguments: argparse.Namespace) -> AlignRequest:
    if arguments.seconds is not None:
        budget = Budget(steps=None, seconds=arguments.seconds)
    else:
        steps = DEFAULT_STEPS if arguments.steps is None else arguments.steps
        budget = Budget(steps=steps, seconds=None)
    return AlignRequest(
        robot=arguments.robot,
        source=EpisodeSource(episodes=arguments.episodes) if arguments.episodes else "live",
        budget=budget,
        losses=LossSwitches(**dict.fromkeys(arguments.off, False)),
        promotion="manual" if arguments.manual else "auto",
        note=arguments.note,
    )


def _shown_losses(losses: dict[str, Any]) -> dict[str, str]:
    return {
        name.rpartition("/")[2]: f"{value:.3g}"
        for name, value in losses.items()
        if isinstance(value, int | float)
    }
