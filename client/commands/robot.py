"""`act` and `robot`: what a robot says and is told."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from client.chunk import ActionChunk, Observation
from client.endpoint import Endpoint
from client.errors import ClientError
from client.operator_client import OperatorClient
from client.robot_client import RobotClient
from client.tables import table
from server.wire.codec import dump_json
from server.wire.messages import RobotReply


def act(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Print the chunk for one observation."""
    with RobotClient(endpoint, robot=arguments.robot, transport="http") as client:
        spec = _spec(client, arguments.robot)
        observation = _observation(arguments, spec)
        chunk = client.act(
            observation,
            w_version=arguments.w_version,
            previous_action=_previous_action(arguments, spec),
        )
    if arguments.json:
        print(dump_json(vars(chunk) | {"actions": chunk.actions.tolist()}).decode())
    else:
        print(_chunk_text(chunk, [item["name"] for item in spec["action"]]))
    return 0


def list_robots(endpoint: Endpoint, _: argparse.Namespace) -> int:
    """Print the robots that the server knows."""
    with OperatorClient(endpoint) as operator:
        found = operator.robots()
    print(robot_table(found.robots, default=found.default))
    return 0


def add(endpoint: Endpoint, arguments: argparse.Namespace) -> int:
    """Make the robot of a spec file known."""
    spec = _read_spec(arguments.file)
    with OperatorClient(endpoint) as operator:
        reply = operator.add_robot(spec)
    print(f"robot {reply.robot} is known, W version {reply.w_version} serves it")
    if reply.notice:
        print(reply.notice)
    return 0


def robot_table(robots: list[RobotReply], *, default: str | None = None) -> str:
    """Robots, the W that serves each, what is to be known of it, and what the robot sends."""
    rows = []
    for item in robots:
        spec = item.spec
        cameras = ", ".join(
            f"{camera['name']} {camera['height']}x{camera['width']}" for camera in spec["cameras"]
        )
        numbers = (len(spec["state"]), len(spec["action"]), f"{spec['rate_hz']:g} Hz")
        name = f"{item.robot} (default)" if item.robot == default else item.robot
        rows.append([name, item.w_version, item.w_sha256[:12], *numbers, cameras])
    head = ["robot", "W", "sha256", "states", "actions", "rate", "cameras"]
    notices = [f"\nrobot {item.robot}: {item.notice}" for item in robots if item.notice]
    return "\n".join([table(head, rows), *notices])


def _spec(client: RobotClient, robot: str | None) -> dict[str, Any]:
    info = client.info()
    name = robot or info.default_robot
    for item in info.robots:
        if item.robot == name:
            return item.spec
    known = ", ".join(item.robot for item in info.robots)
    raise ClientError(f"the server knows no robot {name!r}; it knows {known}")


def _observation(arguments: argparse.Namespace, spec: dict[str, Any]) -> Observation:
    images: dict[str, Any] = {}
    for pair in arguments.image:
        camera, separator, file = pair.partition("=")
        if not separator:
            raise ClientError(f"--image {pair!r}: expected CAMERA=FILE, like front=scene.png")
        images[camera] = Path(file).read_bytes()
    state = arguments.state
    if arguments.blank:
        for camera in spec["cameras"]:
            blank = np.zeros((camera["height"], camera["width"], 3), np.uint8)
            images.setdefault(camera["name"], blank)
        state = state or [(item["low"] + item["high"]) / 2 for item in spec["state"]]
    if state is None:
        names = ",".join(item["name"] for item in spec["state"])
        raise ClientError(f"--state is missing; give {names} (or --blank to try without)")
    observation: Observation = {"images": images, "state": state}
    if arguments.instruction is not None:
        observation["instruction"] = arguments.instruction
    return observation


def _previous_action(arguments: argparse.Namespace, spec: dict[str, Any]) -> Any:
    """The last command, if it is said; a blank robot with targets holds mid-range."""
    given = arguments.previous_action
    if given is None and arguments.blank and spec.get("targets"):
        given = [(item["low"] + item["high"]) / 2 for item in spec["action"]]
    return None if given is None else np.asarray(given, np.float32)


def _chunk_text(chunk: ActionChunk, names: list[str]) -> str:
    rows = [
        [f"{i * chunk.dt_s:.2f} s", *(float(value) for value in row)]
        for i, row in enumerate(chunk.actions)
    ]
    clamped = ", ".join(map(str, chunk.clamped_dims))
    lines = [
        table(["at", *names], rows),
        f"\nrobot {chunk.robot}, W version {chunk.w_version} ({chunk.w_sha256[:12]})",
        f"{chunk.timing.get('inference_ms', 0):.1f} ms inference, "
        f"{1000 * chunk.round_trip_s:.1f} ms in all",
    ]
    return "\n".join(lines + ([f"limited by the spec: {clamped}"] if clamped else []))


def _read_spec(path: Path) -> dict[str, Any]:
    text = path.read_text()
    if path.suffix == ".json":
        spec = json.loads(text)
    elif path.suffix == ".toml":
        spec = tomllib.loads(text)
    else:
        # Only this command reads YAML; a robot's controller needs none.
        import yaml

        try:
            spec = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ClientError(f"{path} is not YAML: {error}") from error
    if not isinstance(spec, dict):
        raise ClientError(f"{path} holds no robot spec: expected a mapping of fields")
    return spec
