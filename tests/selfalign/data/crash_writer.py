"""A recorder that dies. Run by test_play_recovery.py as `python -m`, never collected by pytest.

    points ROOT EVERY  fork a writer for each instant at which it can die, or every so many of them;
                       writer k dies by SIGKILL just before its k-th change of the file system
                       below ROOT/k
    recover ROOT EVERY the same for a writer that only recovers ROOT/k
    endless ROOT       write until killed
    staged ROOT        write half an episode, wait for a line on stdin, write on and seal

A line `k durable` on stdout says how many steps writer k had been told are durable; `end N`, how
many instants there are.
"""

import os
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
        if not (writes or event in _CHANGES) or not os.fspath(args[0]).startswith(self.root):
            return
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


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


def die_at_many_points(root: Path, every: int, work) -> None:
    """Fork a child for each point; stop after the first that lived to the end."""
    number, lived = 1 - every, False
    while not lived:
        number += every
        place = root / str(number)
        place.mkdir(exist_ok=True)
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
    elif mode == "endless":
        endless(root)
    elif mode == "staged":
        staged(root)


if __name__ == "__main__":
    main()
