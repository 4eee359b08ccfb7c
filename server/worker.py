"""The align worker: a process of its own, at the lowest priority, with one thread of torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selfalign.data.play_store import PlayStore
from selfalign.model.checkpoint import PRECISIONS, load_policy, shipped_model_dir
from server.align_job import AlignJob, Stopped, failure_message, run_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from selfalign.model.policy import Policy
    from server.child import Link

_IDLE_BEAT_S = 1.0


def main(link: Link, config: dict[str, Any]) -> None:
    """Load the model, then do one job after the other until the server says `exit` or is gone."""
    torch.set_num_threads(1)
    link.beat()
    model_dir = Path(config["model_dir"]) if config["model_dir"] else shipped_model_dir()
    dtype = PRECISIONS[config["dtype"]]
    policy = load_policy(model_dir, device=config["device"], dtype=dtype)
    link.send({"type": "ready", "base_sha256": policy.base_sha256})
    root = Path(config["play_root"])
    while True:
        link.beat()
        if not link.poll(_IDLE_BEAT_S):
            continue
        try:
            message = link.receive()
        except EOFError:
            return
        if message["type"] == "exit":
            return
        if message["type"] == "align":
            _do(message["job"], policy, root, link)


def _do(job: dict[str, Any], policy: Policy, root: Path, link: Link) -> None:
    """Do one job. An error ends the job, not the process."""
    session = job["session"]
    reader = PlayStore.reader(root)
    try:
        run_job(
            AlignJob.model_validate(job),
            policy,
            reader,
            tell=link.send,
            turn=_turn_of(link, session),
        )
    except Exception as error:  # noqa: BLE001 - the one edge of a job; told and logged there
        link.send({"type": "error", "session": session, "message": failure_message(error)})


def _turn_of(link: Link, session: str) -> Callable[[], None]:
    """Beat, and hear whether the session is to stop."""

    def turn() -> None:
        link.beat()
        while link.poll():
            try:
                message = link.receive()
            except EOFError:
                raise SystemExit(0) from None
            if message["type"] == "exit":
                raise SystemExit(0)
            if message["type"] == "stop" and message["session"] == session:
                raise Stopped

    return turn
