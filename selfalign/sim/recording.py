"""Record one episode as arrays, one row per frame, in the format of `selfalign.data.recording`.

Row i holds what was seen before step i and what step i was asked to do. Nothing in a row depends
on an action space: `commands_of` turns rows back into commands, which any space can label.

Shape key: n frames, K key points, joints are padded with zeros to 8.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from selfalign.sim.action_spaces import MOTION_STEP_M, WORKSPACE_HIGH, WORKSPACE_LOW, tool_command
from selfalign.sim.arm import Arm
from selfalign.sim.env import KEYPOINTS, SimEnv
from selfalign.sim.experts import scripted_expert
from selfalign.sim.motion import Command, Measured
from selfalign.sim.play import RandomPlay
from selfalign.sim.scene import COLOURS, OPENING_MAX_M
from selfalign.sim.tasks import TASKS

JOINTS_PADDED = 8
PLAY_STEPS = 64
KINDS = ("play", "demo")
TASK_NAMES = tuple(TASKS)


def record_episode(
    env: SimEnv,
    kind: Literal["play", "demo"],
    rng: np.random.Generator,
    *,
    steps: int | None = None,
    noise: float = 0.0,
    extra_steps: int = 3,
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Reset the environment, play or demonstrate, and return frames and metadata.

    Args:
        env: the robot; its first camera is recorded. Its task stays, the colour is drawn.
        kind: `"play"` (random motion) or `"demo"` (the scripted expert until success).
        rng: source of everything random in the episode.
        steps: frames of play (default `PLAY_STEPS`); the longest a demo may take (default: the
            task's step limit).
        noise: in a demo, how far execution strays from the expert, as a share of the longest tool
            step. Rows keep what the expert wanted, so a policy learns to recover; with noise the
            rows of a demo are labels for a policy, not transitions that were executed.
        extra_steps: frames of a demo after success, so that chunks near the end have a future.
    """
    env.reset(seed=int(rng.integers(2**31)))
    if kind == "play":
        rows, success = _play_rows(env, rng, steps or PLAY_STEPS), False
    else:
        rows, success = _demo_rows(env, rng, steps or env.task.step_limit, noise, extra_steps)
    count = len(rows)
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    arrays["step"] = np.arange(count, dtype=np.int32)
    constants = {
        "kind": KINDS.index(kind),
        "task": TASK_NAMES.index(env.task.name),
        "colour": COLOURS.index(env.colour),
        "success": int(success),
    }
    arrays |= {name: np.full(count, value, np.uint8) for name, value in constants.items()}
    return arrays, _metadata(env, kind, count, success=success)


def commands_of(rows: Mapping[str, np.ndarray], joint_count: int) -> Command:
    """Return recorded rows [n] as one vectorised command, for `normalised_label`."""
    measured = Measured(
        joints=rows["joints"][..., :joint_count],
        opening=rows["gripper"],
        tool=rows["tool"],
        tool_rotation=rows["tool_rotation"],
    )
    return Command(
        measured=measured,
        tool_target=rows["tool_target"],
        joint_target=rows["joint_target"][..., :joint_count],
        opening_target=rows["gripper_target"],
    )


def _play_rows(env: SimEnv, rng: np.random.Generator, steps: int) -> list[dict[str, np.ndarray]]:
    play, rows = RandomPlay(rng), []
    for _ in range(steps):
        command = play.command(env)
        rows.append(_row(env, command))
        env.execute(command)
    return rows


def _demo_rows(
    env: SimEnv, rng: np.random.Generator, steps: int, noise: float, extra_steps: int
) -> tuple[list[dict[str, np.ndarray]], bool]:
    rows: list[dict[str, np.ndarray]] = []
    success, left, drift = False, steps, np.zeros(3)
    while left > 0:
        command = scripted_expert(env)
        rows.append(_row(env, command))
        if noise:
            drift += 0.5 * (noise * MOTION_STEP_M * rng.standard_normal(3) - drift)
            command = _disturbed(env, command, drift)
        left -= 1
        if env.execute(command) and not success:
            success, left = True, extra_steps
    return rows, success


def _disturbed(env: SimEnv, command: Command, drift: np.ndarray) -> Command:
    target = np.clip(command.tool_target + drift, WORKSPACE_LOW, WORKSPACE_HIGH)
    return tool_command(command.measured, target, float(command.opening_target), env.kinematics)


def _row(env: SimEnv, command: Command) -> dict[str, np.ndarray]:
    camera, measured = next(iter(env.cameras)), command.measured
    return {
        "images": env.render(camera),
        "joints": _padded(measured.joints),
        "joint_target": _padded(command.joint_target),
        "gripper": measured.opening.astype(np.float32),
        "gripper_target": command.opening_target.astype(np.float32),
        "tool": measured.tool.astype(np.float32),
        "tool_rotation": measured.tool_rotation.astype(np.float32),
        "tool_target": command.tool_target.astype(np.float32),
        "keypoints": env.project_keypoints(camera),
    }


def _padded(joints: np.ndarray) -> np.ndarray:
    return np.pad(joints, (0, JOINTS_PADDED - len(joints))).astype(np.float32)


def arm_metadata(arm: Arm) -> dict[str, object]:
    """Return the JSON-ready description of an arm: name, joint, tool and gripper limits."""
    return {
        "name": arm.name,
        "joint_count": arm.joint_count,
        "joint_limits": [list(limits) for limits in arm.joint_limits],
        "tool_limits": [
            [float(a), float(b)] for a, b in zip(WORKSPACE_LOW, WORKSPACE_HIGH, strict=True)
        ],
        "gripper_limits": [0.0, OPENING_MAX_M],
    }


def _metadata(env: SimEnv, kind: str, count: int, *, success: bool) -> dict[str, object]:
    return {
        "arm": arm_metadata(env.arm),
        "camera": dataclasses.asdict(next(iter(env.cameras.values()))),
        "kind": kind,
        "task": env.task.name,
        "colour": env.colour,
        "instruction": env.instruction,
        "success": success,
        "frames": count,
        "rate_hz": env.rate_hz,
        "keypoints": list(KEYPOINTS),
    }
