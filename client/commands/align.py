"""`align`: start, watch, stop and list sessions."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, Final

from tqdm import tqdm

from client.endpoint import Endpoint
from client.errors import ClientError, ServerProblem
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

_NONE_YET: Final = "no session yet; begin one with: selfalign-client align start"
# States as people say them, where the session says no more itself.
_STATES: Final = {"queued": "waiting", "running": "aligning", "gating": "judging the candidate"}
_LONGEST_WHY: Final = 100


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
    if not sessions:
        print(_NONE_YET)
        return 0
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
            item.note,
            _shortened(item.error or item.detail),
        ]
        for item in sessions
    ]
    head = ["session", "robot", "state", "steps", "play", "time", "loss before", "after", "W"]
    head += ["note", "why"]
    print(table(head, rows))
    return 0


def progress(events: Iterable[AlignEvent], *, total: int | None, quiet: bool = False) -> None:
    """Show a session's events as a bar, until they end.

    Args:
        events: From `AlignCommands.watch`.
        total: Steps of the budget, if it is in steps.
        quiet: Draw nothing. Nothing is drawn into a file either.
    """
    hidden = True if quiet else None
    with tqdm(total=total, desc="align", unit="step", leave=False, disable=hidden) as bar:
        for event in events:
            if event.event == "progress":
                bar.update(int(event.data.get("step", bar.n)) - bar.n)
                bar.set_postfix(_shown_losses(event.data.get("losses", {})), refresh=False)
            elif event.event == "state":
                data = event.data
                state = str(data.get("state", "align"))
                bar.set_description(str(data.get("detail") or _STATES.get(state, state)))


def summary(session: AlignSession, *, serving: int | None = None) -> str:
    """How a session ended, in a few lines.

    Args:
        session: As it is now.
        serving: The version of W that serves its robot now; None if that is not known.
    """
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
        lines.append(f"W version {session.candidate}{_what_next(session, serving)}")
    return "\n".join(lines)


def ending(session: AlignSession) -> str:
    """How a session ended, in a line."""
    made = "" if session.candidate is None else f", W version {session.candidate}"
    why = f": {_shortened(session.error)}" if session.error else ""
    return f"session {session.id} {session.state}{made}{why}"


def _what_next(session: AlignSession, serving: int | None) -> str:
    if serving is not None and serving == session.candidate:
        return " is active"
    serves = "" if serving is None else f"; version {serving} serves"
    if session.state != "succeeded":
        return f" is kept, but does not serve{serves}"
    if session.promotion == "auto":
        return f" became active{serves}"
    return f" is ready: selfalign-client w activate {session.candidate} --robot {session.robot}"


def _follow(operator: OperatorClient, session: AlignSession) -> int:
    progress(operator.align.watch(session.id), total=session.steps)
    ended = operator.align.get(session.id)
    print(summary(ended, serving=_serving(operator, ended)))
    return 0 if ended.state == "succeeded" else 1


def _serving(operator: OperatorClient, session: AlignSession) -> int | None:
    if session.candidate is None:
        return None
    try:
        return operator.w.list(robot=session.robot).active
    except ServerProblem:
        # A robot that the server does not know any more.
        return None


def _session(operator: OperatorClient, session: str | None) -> AlignSession:
    if session is not None:
        return operator.align.get(session)
    newest = operator.align.list()
    if not newest:
        raise ClientError(_NONE_YET)
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


def _shortened(text: str) -> str:
    """The first line of a text, cut where it is long; `align watch` shows all of it."""
    line = text.partition("\n")[0]
    return line if len(line) <= _LONGEST_WHY else f"{line[: _LONGEST_WHY - 3]}..."


def _shown_losses(losses: dict[str, Any]) -> dict[str, str]:
    return {
        name.rpartition("/")[2]: f"{value:.3g}"
        for name, value in losses.items()
        if isinstance(value, int | float)
    }
