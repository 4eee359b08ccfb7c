"""Play as demonstrations: at any recorded frame the commands of the `reach` expert are known.

The expert is a function of joints and cube alone. The cube follows from a frame's key points and
the recorded camera, what the joints do next from the arm's kinematics. So frames of play become
labelled frames for the policy in every action space, all over the workspace, at no cost but their
prefix. Only stage 1 does this; a robot in service has no such labels.

Shape key: m labelled frames, H horizon, n joints of an arm, A action numbers of the model.
"""

from dataclasses import dataclass, fields
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
from selfalign.pretrain.embodiments import Embodiment, Group
from selfalign.sim.action_spaces import (
    MOTION_JOINT_STEP_RAD,
    MOTION_STEP_M,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    normalised_label,
)
from selfalign.sim.arm import Arm
from selfalign.sim.arm_chain import chain_of
from selfalign.sim.cameras import CameraPose, unproject
from selfalign.sim.env import CUBE_HIGH, CUBE_LOW, KEYPOINTS
from selfalign.sim.kinematics import TOOL_DOWN
from selfalign.sim.motion import Command, Measured
from selfalign.sim.recording import JOINTS_PADDED
from selfalign.sim.robots import make_arm
from selfalign.sim.scene import COLOURS, CUBE_EDGE_M, OPENING_MAX_M
from selfalign.sim.tasks import TASKS, reach_point

# A step covers this share of the displacement asked for (measured on recorded play).
_COVERED = 0.95
# A cube that play has moved still counts where it lies flat and near where cubes start.
_FLAT_M, _NEAR_M = 0.01, 0.08


@final
@dataclass(frozen=True, eq=False)
class Hindsight:
    """Recorded row and colour [m], and what the expert does in the next H steps.

    `tools` and `targets` [m, H, 3] in metres, `rotations` of the tool [m, H, 3, 3]; `joints` and
    `joint_targets` [m, H, 8] in radians, padded with zeros.
    """

    rows: NDArray[np.int64]
    colours: NDArray[np.int64]
    tools: NDArray[np.float32]
    targets: NDArray[np.float32]
    rotations: NDArray[np.float32]
    joints: NDArray[np.float32]
    joint_targets: NDArray[np.float32]

    def of(self, group: Group) -> NDArray[np.int64]:
        """Indices of the labelled frames of a group; rows are sorted."""
        first, last = np.searchsorted(self.rows, (group.start, group.stop))
        return np.arange(first, last)

    def chunks(self, embodiment: Embodiment, at: NDArray[np.int64]) -> NDArray[np.float32]:
        """Normalised chunks [len(at), H, A] in the embodiment's action space."""
        arm = embodiment.group.arm
        n = arm.joint_count
        opening = np.full(self.tools[at].shape[:2], OPENING_MAX_M)
        measured = Measured(self.joints[at, :, :n], opening, self.tools[at], self.rotations[at])
        command = Command(measured, self.targets[at], self.joint_targets[at, :, :n], opening)
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
        self, embodiments: list[Embodiment], rng: np.random.Generator, count: int
    ) -> tuple[Prefix, NDArray[np.int64], Tensor]:
        """Prefix, recorded rows and chunks [B, H, A] of `count` frames of each embodiment."""
        picked = [rng.choice(self.hindsight.of(e.group), count) for e in embodiments]
        chunks = [self.hindsight.chunks(e, at) for e, at in zip(embodiments, picked, strict=True)]
        at = np.concatenate(picked)
        prefix = self.cache.at(torch.from_numpy(at))
        return prefix, self.hindsight.rows[at], torch.from_numpy(np.concatenate(chunks))


def label_play(recording: Recording, horizon: int, colours: int, seed: int) -> Hindsight:
    """Label frames of play for `colours` of the three cubes on average, drawn by the seed."""
    rng = np.random.default_rng((seed, 9))
    arms: dict[str, tuple[Arm, ChainKinematics]] = {}
    found: list[Hindsight] = []
    for episode in recording.episodes:
        if episode["kind"] == "play":
            name = episode["arm"]["name"]
            if name not in arms:
                arm = make_arm(name)
                arms[name] = (arm, ChainKinematics(chain_of(arm)))
            found.append(_label(recording, episode, *arms[name], horizon, colours, rng))
    parts = {f.name: np.concatenate([getattr(h, f.name) for h in found]) for f in fields(Hindsight)}
    order = np.argsort(parts["rows"], kind="stable")
    return Hindsight(**{name: part[order] for name, part in parts.items()})


def hindsight_cache(policy: Policy, recording: Recording, hindsight: Hindsight) -> PrefixCache:
    """The prefix of every labelled frame under its instruction."""
    texts = [TASKS["reach"].instruction(colour) for colour in COLOURS]
    return encode_rows(policy, recording, hindsight.rows, texts, hindsight.colours)


def _label(
    recording: Recording,
    episode: dict[str, Any],
    arm: Arm,
    kinematics: ChainKinematics,
    horizon: int,
    colours: int,
    rng: np.random.Generator,
) -> Hindsight:
    """The labels of one episode, in order of colours."""
    rows, chosen, cubes = _cubes(recording, episode, colours / len(COLOURS), rng)
    joints = np.asarray(recording["joints"], np.float64)[rows][:, : arm.joint_count]
    steps = _expert_steps(kinematics, joints, reach_point(cubes), horizon)
    return Hindsight(rows, chosen, *(part.astype(np.float32) for part in steps))


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
    joints: NDArray[np.float64],
    goal: NDArray[np.float64],
    horizon: int,
) -> list[NDArray[np.float64]]:
    """Over H steps: tool, tool target, tool rotation, joints and joint target, each [m, H, ...].

    The command of each step is that of `sim.action_spaces.tool_command`.
    """
    steps = []
    for _ in range(horizon):
        tool, rotation = kinematics.forward(joints)
        shift = goal - tool
        length = np.linalg.norm(shift, axis=-1, keepdims=True).clip(1e-9)
        target = tool + shift * np.minimum(1.0, MOTION_STEP_M / length)
        target = np.clip(target, WORKSPACE_LOW, WORKSPACE_HIGH)
        step = kinematics.inverse(joints, target, TOOL_DOWN) - joints
        longest = np.abs(step).max(-1, keepdims=True).clip(1e-9)
        step = step * np.minimum(1.0, MOTION_JOINT_STEP_RAD / longest)
        steps.append((tool, target, rotation, _padded(joints), _padded(joints + step)))
        joints = joints + _COVERED * step
    return [np.stack(part, 1) for part in zip(*steps, strict=True)]


def _padded(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.pad(joints, ((0, 0), (0, JOINTS_PADDED - joints.shape[1])))
