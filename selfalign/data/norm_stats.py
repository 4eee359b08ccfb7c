"""Normalisation by statistics of a data set, to the letter of openpi's and of LeRobot's code.

    z_score     openpi (x - mean) / (std + 1e-6), back x * (std + 1e-6) + mean
                LeRobot (x - mean) / (std + 1e-8), back x * std + mean
    ends        openpi (x - low) / (high - low + 1e-6) * 2 - 1
                LeRobot 2 * (x - low) / (high - low) - 1; where high = low, 1e-8 stands for 0

Nothing is clipped. openpi computes in float64, LeRobot in float32.

Shape key: D dimensions of the robot, W padded width of the model.
"""

from collections.abc import Sequence
from typing import Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfalign.data.normalisation import NormalisationError

Rule = Literal["z_score", "ends", "identity"]
Source = Literal["openpi", "lerobot"]
_OPENPI_EPS, _LEROBOT_EPS = 1e-6, 1e-8


@final
class StatisticsNormaliser:
    """Maps the robot's numbers to the model's and back; pads with zeros to the model's width.

    It takes the place of `Normaliser` where a model has statistics.
    """

    def __init__(
        self,
        first: Sequence[float],
        second: Sequence[float],
        *,
        rule: Rule,
        source: Source,
        dimensions: int,
        width: int = 32,
    ) -> None:
        """Take the statistics of a vector of D = `dimensions` numbers.

        Args:
            first: Mean, or lower end; at least D numbers. Further ones are of padding.
            second: Standard deviation, or upper end.
            rule: How the two are used; the identity uses none.
            source: Whose epsilon and precision.
            dimensions: D, the numbers that the robot has.
            width: W, the numbers that the model has.

        Raises:
            NormalisationError: fewer statistics than the robot has numbers, or D beyond W.
        """
        has = dimensions if rule == "identity" else min(len(first), len(second))
        if has < dimensions or dimensions > width:
            raise NormalisationError(
                f"the robot has {dimensions} numbers, the model's statistics {has}, the model "
                f"{width}; take a robot spec that fits, or the statistics of this robot"
            )
        self.dtype = np.dtype(np.float64 if source == "openpi" else np.float32)
        self._rule, self._source = rule, source
        self._first = np.asarray(first[:dimensions], self.dtype)
        self._second = np.asarray(second[:dimensions], self.dtype)
        self.dimensions, self.width = dimensions, width
        self.mask: NDArray[np.bool_] = np.arange(width) < dimensions
        for array in (self._first, self._second, self.mask):
            array.setflags(write=False)

    def normalise(self, values: ArrayLike) -> NDArray[np.float32]:
        """Map `[..., D]` in the robot's units to `[..., W]`, padding to 0.

        Raises:
            NormalisationError: the last axis is not D.
        """
        exact = self.exact(values)
        padded = np.zeros((*exact.shape[:-1], self.width), np.float32)
        padded[..., : self.dimensions] = exact
        return padded

    def exact(self, values: ArrayLike) -> NDArray[np.floating]:
        """Map `[..., D]` to `[..., D]` in the precision of the source, as pi0.5's prompt reads it.

        Raises:
            NormalisationError: the last axis is not D.
        """
        raw = self._checked(values, self.dimensions, "values to normalise")
        if self._rule == "identity":
            return raw
        first, openpi = self._first, self._source == "openpi"
        if self._rule == "z_score":
            return (raw - first) / (self._second + self._eps)
        if openpi:
            return (raw - first) / self._span() * 2.0 - 1.0
        return 2 * (raw - first) / self._span() - 1

    def denormalise(self, values: ArrayLike) -> NDArray[np.float32]:
        """Map `[..., W]` normalised values to `[..., D]` in the robot's units.

        Raises:
            NormalisationError: the last axis is not W.
        """
        return self.exact_back(values).astype(np.float32)

    def exact_back(self, values: ArrayLike) -> NDArray[np.floating]:
        """The same in the precision of the source, for what is computed from it.

        Raises:
            NormalisationError: the last axis is not W.
        """
        padded = self._checked(values, self.width, "values to denormalise")
        return self._back(padded[..., : self.dimensions])

    def _back(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        if self._rule == "identity":
            return x
        openpi = self._source == "openpi"
        if self._rule == "z_score":
            return x * (self._second + self._eps if openpi else self._second) + self._first
        return (x + 1) / 2 * self._span() + self._first

    def _span(self) -> NDArray[np.floating]:
        span = self._second - self._first
        if self._source == "openpi":
            return span + self._eps
        return np.where(span == 0, self._eps, span)

    @property
    def _eps(self) -> NDArray[np.floating]:
        return np.asarray(_OPENPI_EPS if self._source == "openpi" else _LEROBOT_EPS, self.dtype)

    def _checked(self, values: ArrayLike, expected: int, what: str) -> NDArray[np.floating]:
        raw = np.asarray(values, dtype=self.dtype)
        if raw.ndim == 0 or raw.shape[-1] != expected:
            raise NormalisationError(f"{what}: last axis must be {expected}, got shape {raw.shape}")
        return raw
