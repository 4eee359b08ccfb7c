"""`w`: list, download, upload and switch versions of W."""

from __future__ import annotations

import argparse
from pathlib import Path

from client.endpoint import Endpoint
from client.operator_client import OperatorClient
from client.tables import size, table
from server.wire.operator import SwapReply


def list_versions(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Print all versions of a robot."""
    with OperatorClient(endpoint) as operator:
        found = operator.w.list(robot=arguments.robot)
    rows = [
        [
            item.version,
            f"{item.status} (!)" if item.cannot_serve else item.status,
            item.parent,
            item.steps,
            item.play_steps,
            item.metrics.get("held_out_before/total"),
            item.metrics.get("held_out_after/total"),
            size(item.nbytes),
            item.created_at[:19].replace("T", " ") if item.version else None,
            item.sha256[:12],
            item.note,
        ]
        for item in found.versions
    ]
    head = ["W", "status", "parent", "steps", "play", "loss before", "after", "size"]
    head += ["made (UTC)", "sha256", "note"]
    print(f"robot {found.robot}, version {found.active} serves\n")
    print(table(head, rows))
    refused = [item.cannot_serve for item in found.versions if item.cannot_serve]
    if refused:
        print("\n(!) cannot serve:\n" + "\n".join(refused))
    return 0


def get(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Download a version; its hash is checked."""
    path = arguments.output or Path(f"w-{arguments.version}.safetensors")
    with OperatorClient(endpoint) as operator:
        data = operator.w.download(arguments.version, robot=arguments.robot)
    path.write_bytes(data)
    print(f"{path}: {size(len(data))}")
    return 0


def upload(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Add a version from a file."""
    with OperatorClient(endpoint) as operator:
        added = operator.w.upload(
            arguments.file.read_bytes(), robot=arguments.robot, activate=arguments.activate
        )
    print(f"version {added.version}: {added.status}, {added.sha256[:12]}")
    return 0


def activate(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Serve a version."""
    with OperatorClient(endpoint) as operator:
        print(_swapped(operator.w.activate(arguments.version, robot=arguments.robot)))
    return 0


def rollback(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Serve the version that was active before."""
    with OperatorClient(endpoint) as operator:
        print(_swapped(operator.w.rollback(robot=arguments.robot)))
    return 0


def _swapped(reply: SwapReply) -> str:
    before = "" if reply.previous is None else f" (before: {reply.previous})"
    return f"robot {reply.robot}: version {reply.active} serves{before}, {reply.w_sha256[:12]}"
