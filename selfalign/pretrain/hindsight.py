"""Play as demonstrations: at any recorded frame the commands of every task's expert are known.

The expert is a function of joints, gripper and cube alone. The cube follows from a frame's key
points and the recorded camera, what the joints do next from the arm's kinematics, what the cube
does next from two rules: a held cube moves with the tool, a pushed one stays before it. So frames
of play become labelled frames for the policy in every action space and task, at no cost but their
prefix. Only stage 1 does this; a robot in service has no such labels.

Shape key: m labelled frames, H horizon, n joints of an arm, A action numbers of the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfalign.data.kinematic_chain import ChainKinematics
from selfalign.data.recording import Recording
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.pretrain.cache import PrefixCache, encode_rows
from selfalign.pretrain.draws import Draws, each
from selfalign.pretrain.embodiments import Embodiment, Group
from selfalign.sim.action_spaces import (
    MOTION_JOINT_STEP_RAD,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    normalised_label,
)
from selfalign.sim.arm import Arm
from selfalign.sim.arm_chain import chain_of
from selfalign.sim.cameras import CameraPose, unproject
from selfalign.sim.env import CUBE_HIGH, CUBE_LOW, KEYPOINTS
from selfalign.sim.experts import expert_goal, grasps, pushes, towards
from selfalign.sim.kinematics import TOOL_DOWN
from selfalign.sim.motion import Command, Measured
from selfalign.sim.recording import JOINTS_PADDED, TASK_NAMES
from selfalign.sim.robots import make_arm
from selfalign.sim.scene import COLOURS, CUBE_EDGE_M
from selfalign.sim.tasks import TASKS

# A step covers this share of the displacement asked for (measured on recorded play).
_COVERED = 0.95
# A cube that play has moved still counts where it lies flat and near where cubes start.
_FLAT_M, _NEAR_M = 0.01, 0.08
# From the tool tip to the centre of a cube that it pushes: half a finger and half the cube.
_CONTACT_M = 0.01 + CUBE_EDGE_M / 2


@final
@dataclass(frozen=True, eq=False)
class Hindsight:
    """Recorded row, task and colour [m], and what the expert does in the next H steps.

    `tools` and `targets` [m, H, 3] in metres, `rotations` of the tool [m, H, 3, 3]; `joints` and
    `joint_targets` [m, H, 8] in radians, padded with zeros; `openings` and `opening_targets` of
    the gripper [m, H] in metres.
    """

    rows: NDArray[np.int64]
    tasks: NDArray[np.int64]
    colours: NDArray[np.int64]
    tools: NDArray[np.float32]
    targets: NDArray[np.float32]
    rotations: NDArray[np.float32]
    joints: NDArray[np.float32]
    joint_targets: NDArray[np.float32]
    openings: NDArray[np.float32]
    opening_targets: NDArray[np.float32]

    def of(self, group: Group) -> NDArray[np.int64]:
        """Indices of the labelled frames of a group; rows are sorted."""
        first, last = np.searchsorted(self.rows, (group.start, group.stop))
        return np.arange(first, last)

    def chunks(self, embodiment: Embodiment, at: NDArray[np.int64]) -> NDArray[np.float32]:
        """Normalised chunks [len(at), H, A] in the embodiment's action space."""
        arm = embodiment.group.arm
        n = arm.joint_count
        joints, joint_targets = self.joints[at, :, :n], self.joint_targets[at, :, :n]
        measured = Measured(joints, self.openings[at], self.tools[at], self.rotations[at])
        command = Command(measured, self.targets[at], joint_targets, self.opening_targets[at])
        labels = normalised_label(embodiment.space, command, arm)
        out = np.zeros((*labels.shape[:2], embodiment.actions.shape[-1]), np.float32)
        out[..., : labels.shape[-1]] = labels
        return out


@final
@dataclass(frozen=True, eq=False)
class LabelledPlay:
    """Labelled frames with their prefixes, and the share of demonstration frames that they make."""

    hindsight: Hindsight
    cache: PrefixCache
    share: float

    def sample(
        self, embodiments: list[Embodiment], draws: Draws, count: int
    ) -> tuple[Prefix, NDArray[np.int64], Tensor]:
        """Prefix, recorded rows and chunks [B, H, A] of `count` frames of each embodiment."""
        rngs = each(draws, len(embodiments))
        picked = [
            rng.choice(self.hindsight.of(e.group), count)
            for e, rng in zip(embodiments, rngs, strict=True)
        ]
        chunks = [self.hindsight.chunks(e, at) for e, at in zip(embodiments, picked, strict=True)]
        at = np.concatenate(picked)
        prefix = self.cache.at(torch.from_numpy(at))
        return prefix, self.hindsight.rows[at], torch.from_numpy(np.concatenate(chunks))


def label_play(
    recording: Recording, horizon: int, colours: int, seed: int, tasks: Mapping[str, float]
) -> Hindsight:
    """Label frames of play for `colours` of the three cubes on average, drawn by the seed.

    Each with one task, drawn by the shares of `tasks`.
    """
    rng = np.random.default_rng((seed, 9))
    arms: dict[str, tuple[Arm, ChainKinematics]] = {}
    found: list[Hindsight] = []
    for episode in recording.episodes:
        if episode["kind"] == "play":
            name = episode["arm"]["name"]
            if name not in arms:
                arm = make_arm(name)
                arms[name] = (arm, ChainKinematics(chain_of(arm)))
            found.append(_label(recording, episode, *arms[name], horizon, colours, tasks, rng))
    parts = {f.name: np.concatenate([getattr(h, f.name) for h in found]) for f in fields(Hindsight)}
    order = np.argsort(parts["rows"], kind="stable")
    return Hindsight(**{name: part[order] for name, part in parts.items()})


def hindsight_cache(
    policy: Policy, recording: Recording, hindsight: Hindsight, path: Path | None = None
) -> PrefixCache:
    """The prefix of every labelled frame under its instruction; in a file, where one is given."""
    texts = [TASKS[task].instruction(colour) for task in TASK_NAMES for colour in COLOURS]
    prompts = hindsight.tasks * len(COLOURS) + hindsight.colours
    return encode_rows(policy, recording, hindsight.rows, texts, prompts, path=path)


def _label(
    recording: Recording,
    episode: dict[str, Any],
    arm: Arm,
    kinematics: ChainKinematics,
    horizon: int,
    colours: int,
    tasks: Mapping[str, float],
    rng: np.random.Generator,
) -> Hindsight:
    """The labels of one episode, in order of colours."""
    rows, chosen, cubes = _cubes(recording, episode, colours / len(COLOURS), rng)
    shares = np.array([tasks.get(name, 0.0) for name in TASK_NAMES])
    asked = rng.choice(len(TASK_NAMES), len(rows), p=shares / shares.sum())
    joints = np.asarray(recording["joints"][rows, : arm.joint_count], np.float64)
    opening = np.asarray(recording["gripper"][rows], np.float64)
    steps = _expert_steps(kinematics, asked, joints, opening, cubes, horizon)
    return Hindsight(rows, asked, chosen, *(part.astype(np.float32) for part in steps))


def _cubes(
    recording: Recording, episode: dict[str, Any], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows, colour and world position of the cubes of one episode that can be labelled."""
    rows = np.arange(episode["start"], episode["stop"])
    points = unproject(CameraPose(**episode["camera"]), recording["keypoints"][rows])
    out = []
    for colour, name in enumerate(COLOURS):
        cube = points[:, KEYPOINTS.index(f"{name}_cube")]
        keep = rng.random(len(rows)) < share
        keep &= np.abs(cube[:, 2] - CUBE_EDGE_M / 2) < _FLAT_M
        keep &= ((cube[:, :2] > CUBE_LOW - _NEAR_M) & (cube[:, :2] < CUBE_HIGH + _NEAR_M)).all(1)
        out.append((rows[keep], np.full(keep.sum(), colour), cube[keep]))
    labelled, chosen, cubes = (np.concatenate(part) for part in zip(*out, strict=True))
    return labelled, chosen, cubes


def _expert_steps(
    kinematics: ChainKinematics,
    tasks: NDArray[np.int64],
    joints: NDArray[np.float64],
    opening: NDArray[np.float64],
    cube: NDArray[np.float64],
    horizon: int,
) -> list[NDArray[np.float64]]:
    """Over H steps the fields of `Hindsight` from `tools` on, each [m, H, ...].

    The command of each step is that of `sim.action_spaces.tool_command`.
    """
    steps = []
    for _ in range(horizon):
        tool, rotation = kinematics.forward(joints)
        goal, asked = _goals(tasks, tool, cube, opening)
        target = np.clip(towards(tool, goal), WORKSPACE_LOW, WORKSPACE_HIGH)
        step = kinematics.inverse(joints, target, TOOL_DOWN) - joints
        longest = np.abs(step).max(-1, keepdims=True).clip(1e-9)
        step = step * np.minimum(1.0, MOTION_JOINT_STEP_RAD / longest)
        moved = joints + step
        steps.append((tool, target, rotation, _padded(joints), _padded(moved), opening, asked))
        joints = joints + _COVERED * step
        after = kinematics.forward(joints)[0]
        holds = grasps(tool, cube) & (asked < CUBE_EDGE_M)
        opening = np.where(holds, CUBE_EDGE_M, asked)
        cube = _moved(cube, tool, after, holds)
    return [np.stack(part, 1) for part in zip(*steps, strict=True)]


def _goals(
    tasks: NDArray[np.int64],
    tool: NDArray[np.float64],
    cube: NDArray[np.float64],
    opening: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the expert of each frame's task asks for: tool [m, 3] and opening [m]."""
    goal, asked = np.empty_like(tool), np.empty_like(opening)
    for index, name in enumerate(TASK_NAMES):
        of = tasks == index
        goal[of], asked[of] = expert_goal(name, tool[of], cube[of], opening[of])
    return goal, asked


def _moved(
    cube: NDArray[np.float64],
    tool: NDArray[np.float64],
    after: NDArray[np.float64],
    holds: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Where the cubes [m, 3] are after the tools went from `tool` to `after`."""
    carried = cube + after - tool
    pushed = cube.copy()
    pushed[:, 0] = np.maximum(cube[:, 0], after[:, 0] + _CONTACT_M)
    free = np.where(pushes(tool, cube)[:, None], pushed, cube)
    return np.where(holds[:, None], carried, free)


def _padded(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.pad(joints, ((0, 0), (0, JOINTS_PADDED - joints.shape[1])))
