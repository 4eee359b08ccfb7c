"""Maps from one numbering of actions to another, each with its way back.

A map takes actions in the robot's units together with the joints measured when each was decided,
and says what the new numbers are called and within which limits they lie. Kinematics come through
a protocol; a chain declared in a robot spec satisfies it (`ChainKinematics`), and so may any other.

Shape key: `...` any leading shape, A numbers before, Z after, n joints. Positions in metres, angles
in radians.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, final

import numpy as np
from numpy.typing import NDArray

from selfalign.align.augment_appearance import AugmentationError
from selfalign.data.rotations import matrix_vector, vector_matrix
from selfalign.data.spec import Dimension

Floats = NDArray[np.float64]
Dimensions = tuple[Dimension, ...]


class ArmKinematics(Protocol):
    """What the maps need of an arm."""

    def forward(self, joints: Floats) -> tuple[Floats, Floats]:
        """Tool positions [..., 3] and rotations [..., 3, 3] of joints [..., n]."""
        ...

    def inverse(self, joints: Floats, position: Floats, rotation: Floats) -> Floats:
        """Joints [..., n], near `joints`, that bring the tool to poses."""
        ...


class ActionMap(Protocol):
    """One numbering to another."""

    def rename(self, before: Dimensions) -> Dimensions:
        """The Z numbers after, from the A before."""
        ...

    def apply(self, actions: Floats, joints: Floats) -> Floats:
        """Actions [..., A] to [..., Z], decided at measured joints [..., n]."""
        ...

    def undo(self, actions: Floats, joints: Floats) -> Floats:
        """Back from [..., Z] to [..., A]."""
        ...


@final
@dataclass(frozen=True, eq=False)
class FrameChange:
    """Three numbers from `start` on are a vector; it is given in another frame from now on.

    new = rotation @ old + offset. From base to world, `rotation` and `offset` are the base's pose
    in the world; from camera to robot, the camera's pose in the robot's frame. `rotation` is
    orthogonal and may mirror. A displacement has no offset. Undone to rounding.
    """

    rotation: Floats
    offset: Floats
    start: int = 0

    def rename(self, before: Dimensions) -> Dimensions:
        """The same names; the limits are those of the box that holds the turned box."""
        low, high = _limits(_taken(before, self.start, 3))
        middle = self.rotation @ (low + high) / 2 + self.offset
        half = np.abs(self.rotation) @ (high - low) / 2
        return _replaced(before, self.start, 3, _bounded(before, self.start, middle, half))

    def apply(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        del joints
        block = actions[..., self.start : self.start + 3] @ self.rotation.T + self.offset
        return _with_block(actions, self.start, 3, block)

    def undo(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        del joints
        block = (actions[..., self.start : self.start + 3] - self.offset) @ self.rotation
        return _with_block(actions, self.start, 3, block)


@final
@dataclass(frozen=True, eq=False)
class DeltaToAbsolute:
    """Displacements become positions: what was measured is added. Undone to rounding.

    The numbers from `start` on are the joints, or with `reference` "tool" the tool's position in
    the robot's base frame. `positions` are their names and limits as positions.
    """

    reference: Literal["joints", "tool"]
    kinematics: ArmKinematics
    positions: Dimensions
    start: int = 0

    def rename(self, before: Dimensions) -> Dimensions:
        """See `ActionMap`."""
        return _replaced(before, self.start, len(self.positions), self.positions)

    def apply(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        return self._shifted(actions, joints, 1.0)

    def undo(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        return self._shifted(actions, joints, -1.0)

    def _shifted(self, actions: Floats, joints: Floats, sign: float) -> Floats:
        measured = joints if self.reference == "joints" else self.kinematics.forward(joints)[0]
        count = len(self.positions)
        block = actions[..., self.start : self.start + count] + sign * measured
        return _with_block(actions, self.start, count, block)


@final
@dataclass(frozen=True, eq=False)
class CartesianToJoint:
    """Tool poses become joint positions by inverse kinematics, and poses again by forward.

    The numbers from `start` on are a position in the base frame, and with `turned` a rotation
    vector after it; without, the tool keeps the rotation that it has. Poses come back as exactly as
    the inverse reaches them. Joints do not come back from poses where an arm has more of them than
    a pose needs: there are many that reach it.
    """

    kinematics: ArmKinematics
    joints: Dimensions
    turned: bool = False
    start: int = 0

    @property
    def numbers(self) -> int:
        """How many numbers a pose has: 3 or 6."""
        return 6 if self.turned else 3

    def rename(self, before: Dimensions) -> Dimensions:
        """See `ActionMap`."""
        return _replaced(before, self.start, self.numbers, self.joints)

    def apply(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        pose = actions[..., self.start : self.start + self.numbers]
        rotation = (
            vector_matrix(pose[..., 3:]) if self.turned else self.kinematics.forward(joints)[1]
        )
        solved = self.kinematics.inverse(joints, pose[..., :3], rotation)
        return _with_block(actions, self.start, self.numbers, solved)

    def undo(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        del joints
        count = len(self.joints)
        position, rotation = self.kinematics.forward(actions[..., self.start : self.start + count])
        parts = [position, matrix_vector(rotation)] if self.turned else [position]
        return _with_block(actions, self.start, count, np.concatenate(parts, axis=-1))


@final
@dataclass(frozen=True)
class Reordered:
    """Numbers in another order, some with the other sign: new[i] = signs[i] * old[order[i]].

    Takes the numbers from `start` on, as many as `order` has. Undone to the last bit.
    """

    order: tuple[int, ...]
    signs: tuple[int, ...]
    start: int = 0

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise AugmentationError(f"order must be a permutation from 0, got {self.order}")
        if len(self.signs) != len(self.order) or not {*self.signs} <= {-1, 1}:
            raise AugmentationError(f"signs must be {len(self.order)} of -1 or 1, got {self.signs}")

    def rename(self, before: Dimensions) -> Dimensions:
        """See `ActionMap`."""
        block = _taken(before, self.start, len(self.order))
        moved = (block[i] for i in self.order)
        new = tuple(
            d if s > 0 else d.model_copy(update={"low": -d.high, "high": -d.low})
            for d, s in zip(moved, self.signs, strict=True)
        )
        return _replaced(before, self.start, len(new), new)

    def apply(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        del joints
        count = len(self.order)
        block = actions[..., self.start : self.start + count][..., list(self.order)]
        return _with_block(actions, self.start, count, block * np.array(self.signs))

    def undo(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        del joints
        count = len(self.order)
        block = actions[..., self.start : self.start + count] * np.array(self.signs)
        return _with_block(actions, self.start, count, block[..., np.argsort(self.order)])


@final
@dataclass(frozen=True)
class AddedNumbers:
    """Degrees of freedom that were not there: at places `at` of the new actions, held at `values`.

    Undone to the last bit. Its `Backwards` removes degrees of freedom, and is undone where these
    were held at `values`.
    """

    at: tuple[int, ...]
    dimensions: Dimensions
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = {len(self.at), len(self.dimensions), len(self.values)}
        if len(counts) > 1 or len(set(self.at)) != len(self.at):
            raise AugmentationError(
                f"every number added needs a place of its own, a dimension and a value, got places "
                f"{self.at}, {len(self.dimensions)} dimensions and values {self.values}"
            )

    def rename(self, before: Dimensions) -> Dimensions:
        """See `ActionMap`."""
        out = list(before)
        for place, dimension in sorted(zip(self.at, self.dimensions, strict=True), key=_first):
            out.insert(place, dimension)
        return tuple(out)

    def apply(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        del joints
        total = actions.shape[-1] + len(self.at)
        out = np.empty((*actions.shape[:-1], total))
        out[..., list(self.at)] = self.values
        out[..., np.setdiff1d(np.arange(total), self.at)] = actions
        return out

    def undo(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        del joints
        return np.delete(actions, list(self.at), axis=-1)


@final
@dataclass(frozen=True, eq=False)
class Backwards:
    """A map taken from its end to its beginning, where the numbers are called `after`."""

    map: ActionMap
    after: Dimensions

    def rename(self, before: Dimensions) -> Dimensions:
        """See `ActionMap`."""
        del before
        return self.after

    def apply(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        return self.map.undo(actions, joints)

    def undo(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        return self.map.apply(actions, joints)


@final
@dataclass(frozen=True, eq=False)
class Chained:
    """Maps one after the other."""

    maps: tuple[ActionMap, ...]

    def rename(self, before: Dimensions) -> Dimensions:
        """See `ActionMap`."""
        for each in self.maps:
            before = each.rename(before)
        return before

    def apply(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        for each in self.maps:
            actions = each.apply(actions, joints)
        return actions

    def undo(self, actions: Floats, joints: Floats) -> Floats:
        """See `ActionMap`."""
        for each in reversed(self.maps):
            actions = each.undo(actions, joints)
        return actions


def _first(pair: tuple[int, Dimension]) -> int:
    return pair[0]


def _with_block(actions: Floats, start: int, count: int, block: Floats) -> Floats:
    """Actions whose `count` numbers from `start` on are replaced by a block of any width."""
    return np.concatenate(
        [actions[..., :start], block, actions[..., start + count :]], axis=-1, dtype=np.float64
    )


def _taken(before: Dimensions, start: int, count: int) -> Dimensions:
    if start + count > len(before):
        raise AugmentationError(
            f"the map takes numbers {start} to {start + count - 1}, but there are {len(before)}"
        )
    return before[start : start + count]


def _replaced(before: Dimensions, start: int, count: int, block: Sequence[Dimension]) -> Dimensions:
    """The dimensions with `count` of them from `start` on replaced by a block of any length."""
    _taken(before, start, count)
    return (*before[:start], *block, *before[start + count :])


def _limits(dimensions: Dimensions) -> tuple[Floats, Floats]:
    return np.array([d.low for d in dimensions]), np.array([d.high for d in dimensions])


def _bounded(before: Dimensions, start: int, middle: Floats, half: Floats) -> Dimensions:
    """The dimensions from `start` on with limits middle -+ half."""
    return tuple(
        d.model_copy(update={"low": float(m - h), "high": float(m + h)})
        for d, m, h in zip(before[start : start + 3], middle, half, strict=True)
    )
