"""Statistics of success before and after on the same start states."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

_Z: Final = 1.959964
_RESAMPLES: Final = 4000


@final
@dataclass(frozen=True)
class Rate:
    """A success rate and its 95 % interval, as shares of 1."""

    successes: int
    episodes: int

    @property
    def value(self) -> float:
        """The share of successes."""
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval."""
        n, p = self.episodes, self.value
        centre = p + _Z**2 / (2 * n)
        half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        scale = 1 + _Z**2 / n
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:4.0%}  ({low:.0%} - {high:.0%})"


@final
@dataclass(frozen=True)
class Comparison:
    """The same episodes before and after; one list of pairs `(before, after)` per embodiment."""

    pairs: tuple[tuple[tuple[bool, bool], ...], ...]

    @property
    def all_pairs(self) -> list[tuple[bool, bool]]:
        """All pairs of all embodiments."""
        return [pair for group in self.pairs for pair in group]

    @property
    def before(self) -> Rate:
        """Success with the base W."""
        return Rate(sum(before for before, _ in self.all_pairs), len(self.all_pairs))

    @property
    def after(self) -> Rate:
        """Success with the aligned W."""
        return Rate(sum(after for _, after in self.all_pairs), len(self.all_pairs))

    @property
    def improved(self) -> int:
        """Episodes that failed before and succeed now."""
        return sum(after and not before for before, after in self.all_pairs)

    @property
    def worsened(self) -> int:
        """Episodes that succeeded before and fail now."""
        return sum(before and not after for before, after in self.all_pairs)

    @property
    def p_value(self) -> float:
        """Exact McNemar test: how likely so unequal a split is if W made no difference."""
        n, k = self.improved + self.worsened, min(self.improved, self.worsened)
        return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)

    @property
    def gain_interval(self) -> tuple[float, float]:
        """95 % interval of the gain, as shares of 1.

        From five embodiments on a bootstrap over whole embodiments: episodes of one share its
        camera and its W, so they say little about another. Else Newcombe's interval for paired
        proportions, which speaks of these embodiments only.
        """
        return self._over_embodiments() if len(self.pairs) >= 5 else self._over_episodes()

    def _over_embodiments(self) -> tuple[float, float]:
        totals = np.array([sum(after - before for before, after in group) for group in self.pairs])
        sizes = np.array([len(group) for group in self.pairs])
        rng = np.random.default_rng(0)
        drawn = rng.integers(len(sizes), size=(_RESAMPLES, len(sizes)))
        gains = totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        low, high = np.percentile(gains, [2.5, 97.5])
        return float(low), float(high)

    def _over_episodes(self) -> tuple[float, float]:
        """Method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635."""
        before, after = self.before.value, self.after.value
        (low_b, high_b), (low_a, high_a) = self.before.interval, self.after.interval
        phi = self._correlation()
        down, up = (after - low_a, high_b - before), (before - low_b, high_a - after)

        def root(one: float, other: float) -> float:
            return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

        gain = after - before
        return gain - root(*down), gain + root(*up)

    def _correlation(self) -> float:
        """Phi of the table of pairs, corrected for continuity as method 10 asks."""
        n = len(self.all_pairs)
        both = sum(before and after for before, after in self.all_pairs)
        neither = n - both - self.improved - self.worsened
        a, b, c, d = both, self.improved, self.worsened, neither
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        if margins == 0:
            return 0.0
        excess = a * d - b * c
        corrected = excess if excess < 0 else max(excess - n / 2, 0.0)
        return corrected / math.sqrt(margins)


def compare(groups: Sequence[tuple[Sequence[bool], Sequence[bool]]]) -> Comparison:
    """Pair the successes before and after of each embodiment, episode by episode."""
    return Comparison(tuple(tuple(zip(before, after, strict=True)) for before, after in groups))
