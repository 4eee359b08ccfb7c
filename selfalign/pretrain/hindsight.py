"""Play as demonstrations: at any recorded frame the commands of the `reach` expert are known.

The expert is a function of tool and cube alone, and both follow from a frame's key points and the
recorded camera. So frames of play become labelled frames for the policy, all over the workspace,
at no cost but their prefix. Only stage 1 does this; a robot in service has no such labels.

Shape key: m labelled frames, H horizon, A action numbers of the model.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfalign.data.recording import Recording
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.pretrain.cache import PrefixCache, encode_rows
from selfalign.pretrain.embodiments import Embodiment, Group
from selfalign.sim.action_spaces import MOTION_STEP_M, normalised_label
from selfalign.sim.cameras import CameraPose, unproject
from selfalign.sim.env import CUBE_HIGH, CUBE_LOW, KEYPOINTS
from selfalign.sim.motion import Command, Measured
from selfalign.sim.scene import COLOURS, CUBE_EDGE_M, OPENING_MAX_M
from selfalign.sim.tasks import TASKS, reach_point

# A step covers this share of the displacement asked for (measured on recorded play).
_COVERED = 0.95
# A cube that play has moved still counts where it lies flat and near where cubes start.
_FLAT_M, _NEAR_M = 0.01, 0.08


@final
@dataclass(frozen=True, eq=False)
class Hindsight:
    """Recorded row and colour [m]; tool and target of the next H steps [m, H, 3], in metres."""

    rows: NDArray[np.int64]
    colours: NDArray[np.int64]
    tools: NDArray[np.float64]
    targets: NDArray[np.float64]

    def of(self, group: Group) -> NDArray[np.int64]:
        """Indices of the labelled frames of a group; rows are sorted."""
        first, last = np.searchsorted(self.rows, (group.start, group.stop))
        return np.arange(first, last)

    def chunks(self, embodiment: Embodiment, at: NDArray[np.int64]) -> NDArray[np.float32]:
        """Normalised chunks [len(at), H, A] in a tool space whose frame does not turn."""
        tools = self.tools[at]
        opening = np.full(tools.shape[:2], OPENING_MAX_M)
        # Joints and rotation take no part in a base-frame tool space.
        joints = np.zeros((*tools.shape[:2], embodiment.group.arm.joint_count))
        rotation = np.broadcast_to(np.eye(3), (*tools.shape, 3))
        command = Command(
            Measured(joints, opening, tools, rotation), self.targets[at], joints, opening
        )
        labels = normalised_label(embodiment.space, command, embodiment.group.arm)
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
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    for episode in recording.episodes:
        if episode["kind"] == "play":
            found.extend(_cubes(recording, episode, colours / len(COLOURS), rng))
    rows, chosen, cubes = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(rows, kind="stable")
    tool = np.asarray(recording["tool"], np.float64)[rows[order]]
    tools, targets = _expert_steps(tool, reach_point(cubes[order]), horizon)
    return Hindsight(rows[order], chosen[order], tools, targets)


def hindsight_cache(policy: Policy, recording: Recording, hindsight: Hindsight) -> PrefixCache:
    """The prefix of every labelled frame under its instruction."""
    texts = [TASKS["reach"].instruction(colour) for colour in COLOURS]
    return encode_rows(policy, recording, hindsight.rows, texts, hindsight.colours)


def _cubes(
    recording: Recording, episode: dict[str, Any], share: float, rng: np.random.Generator
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
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
    return out


def _expert_steps(
    tool: NDArray[np.float64], goal: NDArray[np.float64], horizon: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the tool will be and what the expert asks for, over H steps: [m, H, 3] each."""
    tools, targets = [], []
    for _ in range(horizon):
        shift = goal - tool
        length = np.linalg.norm(shift, axis=-1, keepdims=True).clip(1e-9)
        target = tool + shift * np.minimum(1.0, MOTION_STEP_M / length)
        tools.append(tool)
        targets.append(target)
        tool = tool + _COVERED * (target - tool)
    return np.stack(tools, 1), np.stack(targets, 1)
