"""`play`: send recorded play, list what the server has recorded, delete it."""

from __future__ import annotations

import argparse
import sys

from tqdm import tqdm

from client.endpoint import Endpoint
from client.errors import ClientError
from client.operator_client import OperatorClient
from client.play import PlayRecorder
from client.play_file import PlayFile
from client.robot_client import RobotClient
from client.tables import duration, size, table
from server.wire.operator import EpisodeList, EpisodeSummary


def send(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Send the steps of a file as one episode."""
    if arguments.file is None:
        raise ClientError("give --from FILE.npz to send play, or one of: list, delete")
    file = PlayFile.read(arguments.file)
    with RobotClient(endpoint, robot=arguments.robot) as client:
        recorder = client.play(meta={"file": arguments.file.name})
        try:
            with recorder:
                _stream(file, recorder)
        except (ClientError, KeyboardInterrupt):
            _say_what_remains(recorder, arguments.file.name)
            raise
    for episode in recorder.episodes:
        print(f"episode {episode.id}: {episode.durable} steps on the server's disk")
    return 0


def _stream(file: PlayFile, recorder: PlayRecorder) -> None:
    steps = tqdm(file.steps(), total=len(file), desc="play", unit="step", leave=False, disable=None)
    for observation, action, t_ns in steps:
        recorder.step(observation, action, t_ns=t_ns)


def _say_what_remains(recorder: PlayRecorder, file: str) -> None:
    """Part of a file may be on the server; whoever sends it again would have it twice."""
    if recorder.episodes:
        names = " ".join(episode.id for episode in recorder.episodes)
        print(
            f"not all of {file} was recorded; the server keeps what it took. To delete that: "
            f"selfalign-client play delete {names}",
            file=sys.stderr,
        )


def list_episodes(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Print what has been recorded, of all robots or of one, and the room that is left."""
    _refuse_file(arguments, "list")
    with OperatorClient(endpoint) as operator:
        found = operator.episodes(robot=arguments.robot)
    if found.episodes:
        print(f"{_episode_table(found.episodes)}\n")
    else:
        print("no play recorded yet; send some with: selfalign-client play --from FILE.npz")
    print(play_line(found))
    return 0


def delete(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Delete episodes, once it is confirmed. Code 1 if it is not."""
    _refuse_file(arguments, "delete")
    with OperatorClient(endpoint) as operator:
        chosen = _chosen(operator.episodes(), arguments.episodes)
        if not arguments.yes and not _is_confirmed(chosen):
            print("nothing is deleted")
            return 1
        names = [episode.id for episode in chosen]
        deleted = operator.delete_episodes(names, pinned=arguments.pinned)
        left = operator.episodes()
    print(f"{_count(len(deleted.deleted))} deleted, {size(deleted.freed_bytes)} freed")
    print(play_line(left))
    return 0


def _refuse_file(arguments: argparse.Namespace, command: str) -> None:
    if arguments.file is not None:
        raise ClientError(f"--from sends play; it does not go with `play {command}`")


def play_line(play: EpisodeList) -> str:
    """What has been recorded and how much room is left, in a line; two if recovery took some."""
    steps = sum(episode.length for episode in play.episodes)
    used = sum(episode.bytes for episode in play.episodes)
    if play.used_bytes is not None:
        used = play.used_bytes
    line = (
        f"play: {_count(len(play.episodes))}, {steps} steps; the store takes {size(used)} of at "
        f"most {size(play.quota_bytes)}, {size(play.free_bytes)} free on the disk"
    )
    if play.quarantined_bytes:
        line += (
            f"\n{size(play.quarantined_bytes)} of it is in quarantine (set aside after a crash); "
            "empty the folder while the server is stopped"
        )
    return line


def _episode_table(episodes: list[EpisodeSummary]) -> str:
    rows = [
        [
            item.id,
            item.robot,
            item.length,
            duration(item.seconds),
            size(item.bytes),
            ("sealed" if item.sealed else "recording") + (", pinned" if item.pinned else ""),
            item.created_at[:19].replace("T", " "),
        ]
        for item in episodes
    ]
    return table(["episode", "robot", "steps", "time", "size", "state", "begun (UTC)"], rows)


def _chosen(found: EpisodeList, names: list[str]) -> list[EpisodeSummary]:
    known = {episode.id: episode for episode in found.episodes}
    missing = [name for name in names if name not in known]
    if missing:
        raise ClientError(
            f"no episode {missing[0]!r}; selfalign-client play list shows what there is. "
            "Nothing is deleted"
        )
    return [known[name] for name in dict.fromkeys(names)]


def _is_confirmed(chosen: list[EpisodeSummary]) -> bool:
    print(_episode_table(chosen))
    total = size(sum(episode.bytes for episode in chosen))
    try:
        answer = input(f"\ndelete {_count(len(chosen))} ({total}) for good? [y/N] ")
    except EOFError:
        raise ClientError("nobody is there to confirm; give --yes. Nothing is deleted") from None
    return answer.strip().lower() in ("y", "yes")


def _count(episodes: int) -> str:
    return f"{episodes} episode{'' if episodes == 1 else 's'}"
