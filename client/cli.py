"""`selfalign-client`: look at a server, ask for actions, send play, align, choose W."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from client.commands import align, play, robot, w
from client.commands.status import status as show_status
from client.endpoint import DEFAULT_URL, Endpoint
from client.errors import ClientError
from client.retry import Backoff
from server.wire.operator import DEFAULT_STEPS
from server.wire.refusals import invalid_fields

_EPILOGUE = """examples:
  selfalign-client status
  selfalign-client act --blank
  selfalign-client act --image front=a.png --state 0,0,0,0,0,0,0,1 --instruction "touch it"
  selfalign-client play --from play.npz
  selfalign-client play list
  selfalign-client align start --steps 25 --follow
  selfalign-client w list
  selfalign-client w rollback
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 refused or failed, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        patience = Backoff(give_up_after_s=arguments.wait)
        endpoint = Endpoint(arguments.url, timeout_s=arguments.timeout, retry=patience)
        code: int = arguments.run(endpoint, arguments)
    except (ClientError, ValueError, OSError) as error:
        print(f"selfalign-client: {_said(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return code


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        # What was asked for on the command line is no message of the wire.
        return str(invalid_fields(error, code="bad-request"))
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="selfalign-client",
        description="Talk to a SelfAlign server.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = _command(commands, "status", show_status, "what the server is and serves")
    status.add_argument("--json", action="store_true", help="as JSON")
    _act(_command(commands, "act", robot.act, "ask for one chunk of actions"))
    _play(
        _command(commands, "play", play.send, "send recorded play; list and delete what is there")
    )
    _robots(_group(commands, "robot", "robots that the server knows"))
    _align(_group(commands, "align", "improve W on play"))
    _w(_group(commands, "w", "versions of W"))
    return parser


def _act(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="CAMERA=FILE",
        help="a PNG or JPEG for each camera",
    )
    parser.add_argument("--state", type=_numbers, metavar="X,Y,...", help="in the spec's order")
    parser.add_argument(
        "--previous-action",
        type=_numbers,
        metavar="X,Y,...",
        help="the last command, or the pose that is held; a robot with targets needs it",
    )
    parser.add_argument("--instruction", help="what to do, in words")
    parser.add_argument("--w-version", type=int, help="use this version of W, not the active one")
    parser.add_argument(
        "--blank",
        action="store_true",
        help="black images and mid-range states for what is not given: does it answer?",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def _play(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="file",
        type=Path,
        metavar="FILE.npz",
        help="send this: images/<camera> [n,h,w,3] uint8, state [n,S], action [n,A], t_ns [n]",
    )
    commands = parser.add_subparsers(metavar="COMMAND", title="or instead")
    text = "what the server has recorded, and the room that is left"
    of = "only the play of this robot"
    _command(commands, "list", play.list_episodes, text, of=of, is_nested=True)
    text = "delete recorded episodes; versions of W aligned on them stay"
    of = "not needed: an episode is of one robot"
    delete = _command(commands, "delete", play.delete, text, of=of, is_nested=True)
    delete.add_argument("episodes", nargs="+", metavar="NAME", help="as `play list` shows them")
    delete.add_argument("--yes", "-y", action="store_true", help="do not ask")
    delete.add_argument("--pinned", action="store_true", help="pinned ones, too")


def _robots(commands: Any) -> None:
    _command(commands, "list", robot.list_robots, "the robots and their specs")
    add = _command(commands, "add", robot.add, "make a robot known")
    add.add_argument("file", type=Path, help="its spec: .yaml, .toml or .json")


def _align(commands: Any) -> None:
    start = _command(commands, "start", align.start, "begin a session")
    start.add_argument("--episodes", nargs="+", metavar="ID", help="instead of the latest play")
    budget = start.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help=f"how many steps (default {DEFAULT_STEPS})")
    budget.add_argument("--seconds", type=float, help="how long")
    start.add_argument(
        "--off",
        action="append",
        default=[],
        choices=("inverse_dynamics", "dynamics", "perception"),
        help="leave out this loss",
    )
    start.add_argument(
        "--manual", action="store_true", help="leave it to `w activate` to serve the result"
    )
    start.add_argument("--note", default="", help="kept with the version")
    start.add_argument("--follow", action="store_true", help="watch it until it ends")
    watch = _command(commands, "watch", align.watch, "follow a session until it ends")
    watch.add_argument("session", nargs="?", help="the newest if left out")
    stop = _command(commands, "stop", align.stop, "stop a session; W stays what it is")
    stop.add_argument("session", nargs="?", help="the newest if left out")
    _command(commands, "list", align.list_sessions, "all sessions")


def _w(commands: Any) -> None:
    _command(commands, "list", w.list_versions, "all versions of a robot")
    get = _command(commands, "get", w.get, "download a version as safetensors")
    get.add_argument("version", type=int)
    get.add_argument("-o", "--output", type=Path, help="file to write; w-VERSION.safetensors")
    upload = _command(commands, "upload", w.upload, "add a version from a file")
    upload.add_argument("file", type=Path)
    upload.add_argument("--activate", action="store_true", help="and serve it")
    activate = _command(commands, "activate", w.activate, "serve a version")
    activate.add_argument("version", type=int)
    _command(commands, "rollback", w.rollback, "serve the version that was active before")


def _group(commands: Any, name: str, text: str) -> Any:
    group = commands.add_parser(name, help=text, description=text)
    return group.add_subparsers(required=True, metavar="COMMAND")


def _command(
    commands: Any,
    name: str,
    run: Callable[[Endpoint, argparse.Namespace], int],
    text: str,
    *,
    of: str = "which robot; the server's default robot if left out",
    is_nested: bool = False,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    _server(parser, of, is_nested=is_nested)
    return parser


def _server(parser: argparse.ArgumentParser, of: str, *, is_nested: bool) -> None:
    """Options of every command. An inner one has no defaults: what stands before it counts."""
    group = parser.add_argument_group("server")

    def add(name: str, default: str | float | None, text: str, **more: Any) -> None:
        group.add_argument(
            name, default=argparse.SUPPRESS if is_nested else default, help=text, **more
        )

    add("--url", DEFAULT_URL, f"the server ({DEFAULT_URL})")
    add("--robot", None, of)
    add("--timeout", 10.0, "longest wait for a reply (10)", type=float, metavar="S")
    add("--wait", 0.0, "keep trying to connect this long (0)", type=float, metavar="S")


def _numbers(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list like 0,0.5,-1") from None


if __name__ == "__main__":
    sys.exit(main())
