"""Embodiments for stage 1: one recorded group (arm and camera) relabelled into an action space.

Shape key: n rows of a group, N rows of a recording, A action numbers of the model, H horizon,
k stride.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from selfalign.align.targets import aligned_numbers
from selfalign.data.recording import Recording
from selfalign.model.config import ModelConfig
from selfalign.pretrain.draws import choose
from selfalign.sim.action_spaces import (
    ActionSpace,
    ToolDelta,
    held,
    normalised_label,
    random_space,
)
from selfalign.sim.motion import Command
from selfalign.sim.recording import commands_of
from selfalign.sim.robots import Arm, make_arm

# Other declared limits are so many times as wide as the arm's own: a spec may state the range of
# the work, or that of joints which turn twice.
_WIDTHS = (0.5, 2.5)
# At least so much of the declared range is left free by what the arm was recorded to do.
_FREE = 0.05


@final
@dataclass(frozen=True, eq=False)
class Group:
    """One arm under one camera: rows start..stop of the recording.

    `transitions` are rows t whose t + k lies in the same play episode; `chunks` are rows of
    demonstrations that are followed by H commands of the same episode. Both are absolute rows.
    """

    arm: Arm
    start: int
    stop: int
    transitions: NDArray[np.int64]
    chunks: NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class Embodiment:
    """A group with an action space: `actions` [n, A] are its normalised labels, row 0 = start.

    `action_mask` [A] says which numbers the robot has, `aligned_mask` [A] which of them alignment
    predicts.

    `motion` is the mean square of what its labels say beyond standing still, as a multiple of that
    in the plain tool frame: wide limits make the numbers of the same motion small.

    `state_scale` and `state_shift` [s] make its state numbers of those by its arm's own limits.

    Its W is aligned on `support` transitions and judged on `query` transitions, which lie in other
    episodes where the group has several.
    """

    group: Group
    space: ActionSpace
    actions: NDArray[np.float32]
    action_mask: NDArray[np.bool_]
    aligned_mask: NDArray[np.bool_]
    support: NDArray[np.int64]
    query: NDArray[np.int64]
    motion: float
    state_scale: NDArray[np.float32]
    state_shift: NDArray[np.float32]


def load_groups(recording: Recording, config: ModelConfig) -> list[Group]:
    """All groups of a recording, in order."""
    episodes: dict[int, list[dict[str, Any]]] = {}
    for episode in recording.episodes:
        episodes.setdefault(episode["group"], []).append(episode)
    arms = {e["arm"]["name"]: make_arm(e["arm"]["name"]) for e in recording.episodes}
    return [
        Group(
            arms[members[0]["arm"]["name"]],
            min(e["start"] for e in members),
            max(e["stop"] for e in members),
            _rows(members, "play", config.stride),
            _rows(members, "demo", config.horizon - 1),
        )
        for _, members in sorted(episodes.items())
    ]


def relabel(
    recording: Recording,
    group: Group,
    space: ActionSpace,
    width: int,
    *,
    swap: bool = False,
    support_share: float = 0.5,
    state_numbers: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> Embodiment:
    """Number the recorded motion of a group in an action space.

    The first part of the play, `support_share` of it, is for alignment and the rest to judge it;
    with `swap` the last part is for alignment.
    `state_numbers` are scale and shift of its state, where its declared limits are not the arm's.
    """
    fields = (
        "joints",
        "joint_target",
        "gripper",
        "gripper_target",
        "tool",
        "tool_rotation",
        "tool_target",
    )
    rows = {name: np.asarray(recording[name][group.start : group.stop]) for name in fields}
    command = commands_of(rows, group.arm.joint_count)
    labels = normalised_label(space, command, group.arm)
    n, count = labels.shape
    actions = np.zeros((n, width), np.float32)
    actions[:, :count] = labels
    aligned = aligned_numbers((limit.name for limit in space.dims(group.arm)), width)
    played = group.transitions[::-1] if swap else group.transitions
    support, query = np.split(played, [round(support_share * len(played))])
    motion = _motion(space, command, group.arm) / _motion(ToolDelta(), command, group.arm)
    has = np.arange(width) < count
    scale, shift = state_numbers or (np.ones(1, np.float32), np.zeros(1, np.float32))
    return Embodiment(group, space, actions, has, aligned, support, query, motion, scale, shift)


def _motion(space: ActionSpace, command: Command, arm: Arm) -> float:
    """Mean square of the labels, less what they are for an arm that stands still; no gripper."""
    still = normalised_label(space, held(command.measured), arm)
    shift = normalised_label(space, command, arm) - still
    return max(float(np.square(shift[:, :-1]).mean()), 1e-9)


def draw_space(rng: np.random.Generator, shares: dict[str, float], arm: Arm) -> ActionSpace:
    """Draw a family by its share, then a space of that family."""
    return random_space(rng, choose(rng, shares, 1)[0], arm)


def normalised_states(
    recording: Recording, groups: list[Group], width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """States [N, width] by the declared limits of each arm, and what alignment predicts of them."""
    states = np.zeros((len(recording), width), np.float32)
    mask = np.zeros((len(recording), width), np.bool_)
    opening_high = recording.episodes[0]["arm"]["gripper_limits"][1]
    for group in groups:
        rows, n = slice(group.start, group.stop), group.arm.joint_count
        low, high = np.array(group.arm.joint_limits).T
        states[rows, :n] = 2 * (recording["joints"][rows, :n] - low) / (high - low) - 1
        states[rows, n] = 2 * recording["gripper"][rows] / opening_high - 1
        mask[rows, :n] = True
    return states, mask


def other_limits(
    rng: np.random.Generator, states: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and shift [s] of states [n, s] as if every joint's limits had been declared at random.

    Their width is drawn, and where in them the recorded motion lies; it always lies inside. `mask`
    [s] tells the joints; other numbers stay.
    """
    low, high = states.min(0), states.max(0)
    half = (high - low) / 2
    width = np.exp(rng.uniform(np.log(_WIDTHS[0]), np.log(_WIDTHS[1]), len(mask)))
    width = np.maximum(width, half / (1 - _FREE))
    centre = (low + high) / 2 + rng.uniform(-1, 1, len(mask)) * (width * (1 - _FREE) - half)
    scale, shift = np.where(mask, 1 / width, 1.0), np.where(mask, -centre / width, 0.0)
    return scale.astype(np.float32), shift.astype(np.float32)


def _rows(members: list[dict[str, Any]], kind: str, ahead: int) -> NDArray[np.int64]:
    parts = [
        np.arange(e["start"], max(e["start"], e["stop"] - ahead))
        for e in members
        if e["kind"] == kind and (kind == "play" or e["success"])
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
