"""A recorder that dies. Run by test_play_recovery.py as `python -m`, never collected by pytest.

    points ROOT EVERY  fork a writer for each instant at which it can die, or every so many of them;
                       writer k dies by SIGKILL just before its k-th change of the file system
                       below ROOT/k
    recover ROOT EVERY the same for a writer that only recovers ROOT/k
    delete ROOT EVERY  the same for a writer that deletes two of three episodes, one of them pinned
    endless ROOT       write until killed
    staged ROOT        write half an episode, wait for a line on stdin, write on and seal

A line `k durable` on stdout says how many steps writer k had been told are durable; `end N`, how
many instants there are.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from selfalign.data.play_store import PlayStore
from tests.fakes.play_steps import small_spec, step

STEPS = 6
# One camera, so that there are fewer instants to die at.
SPEC = small_spec().model_copy(update={"cameras": small_spec().cameras[:1]})
_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}


class Killer:
    """Counts changes of the file system below a root and dies before number `at`."""

    def __init__(self, root: Path, at: int | None) -> None:
        self.root, self.at, self.seen = str(root), at, 0
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if not (writes or event in _CHANGES) or not self._is_ours(event, args):
            return
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_ours(self, event: str, args: tuple) -> bool:
        # A tree is removed by names relative to its open folders.
        is_relative = event in {"os.remove", "os.rmdir"} and args[1] != -1
        return is_relative or os.fspath(args[0]).startswith(self.root)


def open_store(root: Path) -> PlayStore:
    return PlayStore(root, quota_bytes=10**9, min_free_bytes=0, block_steps=4)


def say(*words: object) -> None:
    # One write of a short line is atomic, also from many processes into one pipe.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def write_episode(root: Path, number: int) -> None:
    store = open_store(root)
    writer = store.start_episode(SPEC)
    for i in range(STEPS):
        say(number, writer.append(step(i, SPEC)))
    writer.seal()
    say(number, STEPS)


def mkdir(root: Path) -> None:
    root.mkdir(exist_ok=True)


def place_three(root: Path) -> None:
    """A store of three short episodes, the first of them pinned: a copy of that beside it."""
    first = root.parent / "first"
    if not first.exists():
        record_three(first)
    shutil.copytree(first, root)


def record_three(root: Path) -> None:
    with open_store(root) as store:
        for _ in range(3):
            writer = store.start_episode(SPEC)
            for i in range(STEPS):
                writer.append(step(i, SPEC))
            writer.seal()
        store.pin(store.episodes()[0].id)


def delete_two(root: Path, number: int) -> None:
    store = open_store(root)
    first, _, last = store.episodes()
    store.delete(first.id, last.id, pinned=True)


def die_at_many_points(root: Path, every: int, work, *, prepare=mkdir) -> None:
    """Fork a child for each point; stop after the first that lived to the end."""
    number, lived = 1 - every, False
    while not lived:
        number += every
        place = root / str(number)
        prepare(place)
        child = os.fork()
        if child == 0:
            Killer(place, number)
            work(place, number)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            sys.exit(f"writer {number} failed")
        lived = os.WIFEXITED(status)
    say("end", number)


def endless(root: Path) -> None:
    writer = open_store(root).start_episode(SPEC)
    i = 0
    while True:
        durable = writer.append(step(i, SPEC))
        i += 1
        if i % 4 == 0:
            say(0, durable)


def staged(root: Path) -> None:
    with open_store(root) as store:
        writer = store.start_episode(SPEC)
        for i in range(40):
            writer.append(step(i, SPEC))
        say(writer.id)
        sys.stdin.readline()
        for i in range(40, 120):
            writer.append(step(i, SPEC))
        writer.seal()


def main() -> None:
    mode, root = sys.argv[1], Path(sys.argv[2])
    if mode == "points":
        die_at_many_points(root, int(sys.argv[3]), write_episode)
    elif mode == "recover":
        die_at_many_points(root, int(sys.argv[3]), lambda place, _number: open_store(place))
    elif mode == "delete":
        die_at_many_points(root, int(sys.argv[3]), delete_two, prepare=place_three)
    elif mode == "endless":
        endless(root)
    elif mode == "staged":
        staged(root)


if __name__ == "__main__":
    main()
