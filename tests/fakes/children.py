"""Mains of helper processes for the supervisor's tests."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from server.child import Link


def echo(link: Link, config: dict[str, Any]) -> None:
    """Answer each message, say how the process was set up, do as told."""
    link.send(
        {
            "type": "ready",
            "pid": os.getpid(),
            "nice": os.nice(0),
            "omp": os.environ["OMP_NUM_THREADS"],
            "config": config,
            "torch": "torch" in sys.modules,
        }
    )
    while True:
        try:
            message = link.receive()
        except EOFError:
            Path(config["note"]).write_text("parent gone")
            return
        link.beat()
        match message["type"]:
            case "exit":
                return
            case "die":
                os._exit(message["code"])
            case "hang":
                time.sleep(3600)
            case _:
                link.send({"type": "echo", "message": message})


def die_at_once(link: Link, config: dict[str, Any]) -> None:
    """End with an error before saying anything."""
    sys.exit(3)


def start_slowly(link: Link, config: dict[str, Any]) -> None:
    """Say nothing for a long time, as one that imports a lot."""
    time.sleep(3600)
