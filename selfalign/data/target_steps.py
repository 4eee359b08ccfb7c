"""Absolute targets as steps: what the policy sees of them is their change since the last command.

Nothing of an observation tells where the origin of a robot's targets lies, so no alignment could
find it. A change needs no origin: it is what a delta action says. Where a target is afterwards is
the last command and the running sum of the changes.

Shape key: B chunks, H steps, a action numbers of the robot, s state numbers.
"""

from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.normalisation import target_steps
from selfalign.data.observation import UNIT_MISTAKE, ObservationMismatch
from selfalign.data.spec import Dimension, RobotSpec

Floats = NDArray[np.floating]


@final
class TargetSteps:
    """The targets among the actions of one robot. Stateless; any thread may call it."""

    def __init__(self, spec: RobotSpec) -> None:
        """Take a spec that has targets."""
        steps = target_steps(spec)
        self._columns = np.array(list(steps), np.int64)
        self._step = np.array(list(steps.values()))
        self._dimensions = tuple(spec.action[column] for column in steps)
        self._low, self._high = (
            np.array([getattr(d, end) for d in self._dimensions]) for end in ("low", "high")
        )
        self._width = len(spec.action)
        self._measured = _measured(self._dimensions, spec)

    @classmethod
    def of(cls, spec: RobotSpec) -> Self | None:
        """The targets of a robot; None if it has none."""
        return cls(spec) if spec.targets else None

    def last(self, state: Floats, given: Floats | None, rest: Floats | None = None) -> Floats:
        """The last command `[a]`; NaN where nobody knows it, which is never in a target.

        That is the command `given`. Without it a robot that measures its targets, as numbers of
        the state `[s]` with the same name and unit, is taken to hold where it is. An arm lags
        behind what it is told: where a chunk is continued, whose `rest` is [n, a], the last
        command is not farther than a step from the first row.

        Raises:
            ObservationMismatch: no command is given and the state does not tell, or what is given
                is not one number for each action, near the limits in every target.
        """
        if given is None:
            return self._held(state, rest)
        if given.shape != (self._width,):
            raise ObservationMismatch(
                field="previous_action",
                got=f"shape {list(given.shape)}",
                expected=f"{self._width} numbers, one for each action",
            )
        place = given[self._columns].astype(np.float64)
        # Written so that a NaN counts as wrong.
        half = (self._high - self._low) / 2
        wrong = ~(np.abs(place - self._low - half) <= UNIT_MISTAKE * half)
        if wrong.any():
            at = int(np.argmax(wrong))
            dimension, column = self._dimensions[at], int(self._columns[at])
            raise ObservationMismatch(
                field=f"previous_action[{column}] ({dimension.name})",
                got=float(place[at]),
                expected=f"finite number in {dimension.unit or 'its unit'} near the declared "
                f"limits [{dimension.low}, {dimension.high}]",
            )
        return given

    def changes(self, actions_BHa: NDArray[np.float32], last_Ba: Floats) -> NDArray[np.float32]:
        """Actions with each target as its change since the command before; a copy.

        The command before the first of H is `last_Ba`.
        """
        out, columns = actions_BHa.copy(), self._columns
        # In float64: a target far from zero keeps the digits of its change.
        places = actions_BHa[..., columns].astype(np.float64)
        before = np.concatenate([last_Ba[:, None, columns], places[:, :-1]], axis=1)
        out[..., columns] = places - before
        return out

    def targets(self, changes_BHa: NDArray[np.float32], last_Ba: Floats) -> NDArray[np.float32]:
        """The inverse of `changes`: each target is the command before plus its change; a copy.

        A row may leave the limits, or change by more than `max_step`; what limits actions can then
        name it. The next row goes on from where the robot will have been limited to, so that a sum
        never runs away from what is executed.
        """
        out, columns = changes_BHa.copy(), self._columns
        place = np.clip(last_Ba[:, columns].astype(np.float64), self._low, self._high)
        for row, change in zip(
            np.moveaxis(out, 1, 0), np.moveaxis(changes_BHa[..., columns], 1, 0), strict=True
        ):
            # What is not finite passes through, without a warning on every call.
            with np.errstate(over="ignore", invalid="ignore"):
                row[:, columns] = place + change
                limited = np.clip(change, -self._step, self._step)
                place = np.clip(place + limited, self._low, self._high)
        return out

    def _held(self, state: Floats, rest: Floats | None) -> Floats:
        if self._measured is None:
            names = ", ".join(dimension.name for dimension in self._dimensions)
            raise ObservationMismatch(
                field="previous_action",
                got="none",
                expected=f"the last command sent, since {names} are targets and the state does not "
                "measure them; before the first command, the pose that the robot holds",
            )
        held = np.full(self._width, np.nan, np.float32)
        held[self._columns] = state[self._measured]
        if rest is not None:
            following = rest[0, self._columns]
            held[self._columns] = np.clip(
                held[self._columns], following - self._step, following + self._step
            )
        return held


def _measured(targets: tuple[Dimension, ...], spec: RobotSpec) -> NDArray[np.int64] | None:
    """Which numbers of the state measure the targets; None unless all are measured."""
    places = {(d.name, d.unit): column for column, d in enumerate(spec.state)}
    keys = [(target.name, target.unit) for target in targets]
    return np.array([places[key] for key in keys]) if set(keys) <= set(places) else None
