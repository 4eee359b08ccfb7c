"""Normalisation of states and actions by the limits that a robot spec declares.

Shape key: D dimensions of the robot, W padded width of the model.
"""

from collections.abc import Sequence
from typing import Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfalign.data.spec import Dimension, RobotSpec
from selfalign.errors import SelfAlignError


class NormalisationError(SelfAlignError):
    """Limits or values of the wrong shape, or limits that span no range."""


@final
class Normaliser:
    """Maps declared limits to [-1, 1] and pads with zeros to the width of the model.

    Values beyond the limits map beyond [-1, 1]: clipping is the safety stage's task, and a
    non-finite value stays non-finite so that it is seen there.
    """

    def __init__(self, low: ArrayLike, high: ArrayLike, width: int = 32) -> None:
        """Take limits `low` and `high`, each `[D]` in the units of the robot, D <= width.

        Raises:
            NormalisationError: unequal lengths, more dimensions than `width`, or a limit that is
                not finite or not below its upper partner.
        """
        self._low = np.array(low, dtype=np.float64)
        self._high = np.array(high, dtype=np.float64)
        self.width = width
        _check_limits(self._low, self._high, width)
        self._half_span = (self._high - self._low) / 2.0
        self._middle = (self._high + self._low) / 2.0
        self._mask = np.arange(width) < self.dimensions
        for array in (self._low, self._high, self._mask):
            array.setflags(write=False)

    @classmethod
    def for_state(cls, spec: RobotSpec, *, width: int = 32) -> Self:
        """Return the normaliser of the state of `spec`."""
        return cls(*_limits(spec.state), width)

    @classmethod
    def for_action(cls, spec: RobotSpec, *, width: int = 32) -> Self:
        """Return the normaliser of the action of `spec`: of a target's change, -+ max_step."""
        low, high = _limits(spec.action)
        for column, step in target_steps(spec).items():
            low[column], high[column] = -step, step
        return cls(low, high, width)

    @property
    def dimensions(self) -> int:
        """Number D of dimensions that are real, not padding."""
        return int(self._low.size)

    @property
    def low(self) -> NDArray[np.float64]:
        """Lower limits `[D]`, read-only."""
        return self._low

    @property
    def high(self) -> NDArray[np.float64]:
        """Upper limits `[D]`, read-only."""
        return self._high

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which of the `[W]` padded entries are real, read-only."""
        return self._mask

    def normalise(self, values: ArrayLike) -> NDArray[np.float32]:
        """Map `[..., D]` in the robot's units to `[..., W]`: limits to -1 and +1, padding to 0.

        Raises:
            NormalisationError: the last axis is not D.
        """
        raw = np.asarray(values, dtype=np.float64)
        _check_last_axis(raw, self.dimensions, "values to normalise")
        padded = np.zeros((*raw.shape[:-1], self.width), dtype=np.float32)
        span = self._high - self._low
        # What is not finite passes through, without a warning on every call.
        with np.errstate(over="ignore", invalid="ignore"):
            padded[..., : self.dimensions] = 2.0 * ((raw - self._low) / span) - 1.0
        return padded

    def denormalise(self, values: ArrayLike) -> NDArray[np.float32]:
        """Map `[..., W]` normalised values to `[..., D]` in the robot's units.

        Raises:
            NormalisationError: the last axis is not W.
        """
        padded = np.asarray(values)
        _check_last_axis(padded, self.width, "values to denormalise")
        # What is not finite passes through, without a warning on every call.
        with np.errstate(over="ignore", invalid="ignore"):
            raw = padded[..., : self.dimensions] * self._half_span
            raw += self._middle
            return raw.astype(np.float32)


def target_steps(spec: RobotSpec) -> dict[int, float]:
    """The columns of the actions that are targets, and the `max_step` of each, in its unit."""
    steps = zip(spec.action, spec.max_step or (), strict=False)
    return {
        column: step
        for column, (dimension, step) in enumerate(steps)
        if dimension.name in spec.targets and step is not None
    }


def _limits(dimensions: Sequence[Dimension]) -> tuple[list[float], list[float]]:
    return [d.low for d in dimensions], [d.high for d in dimensions]


def _check_limits(low: NDArray[np.float64], high: NDArray[np.float64], width: int) -> None:
    if low.ndim != 1 or low.shape != high.shape or low.size == 0:
        msg = f"limits must be two vectors of one length, got shapes {low.shape} and {high.shape}"
        raise NormalisationError(msg)
    if low.size > width:
        msg = f"{low.size} dimensions do not fit in the model's width {width}; declare fewer"
        raise NormalisationError(msg)
    # Written so that a NaN limit counts as wrong.
    wrong = ~(np.isfinite(low) & np.isfinite(high) & (low < high))
    if wrong.any():
        i = int(np.argmax(wrong))
        msg = f"limits of dimension {i} must be finite with low < high, got {low[i]} and {high[i]}"
        raise NormalisationError(msg)


def _check_last_axis(values: NDArray[np.float64], expected: int, what: str) -> None:
    if values.ndim == 0 or values.shape[-1] != expected:
        msg = f"{what}: last axis must be {expected}, got shape {values.shape}"
        raise NormalisationError(msg)
