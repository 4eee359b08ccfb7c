"""Draws by shares, and whose numbers a batch is drawn with.

That is one generator for all, or one for every embodiment. In training every slot has a generator
of its own. So a slot's rows are the same however the slots of an iteration are cut into
micro-batches and shared by processes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Draws = np.random.Generator | Sequence[np.random.Generator]


def each(draws: Draws, count: int) -> Sequence[np.random.Generator]:
    """The generator of each of `count` embodiments. Raises ValueError when there are others."""
    if isinstance(draws, np.random.Generator):
        return [draws] * count
    if len(draws) != count:
        raise ValueError(f"{len(draws)} generators for {count} embodiments")
    return draws


def choose(rng: np.random.Generator, shares: Mapping[str, float], count: int) -> list[str]:
    """`count` of the names, each by its share of the sum."""
    names, weights = list(shares), np.array(list(shares.values()))
    return [names[i] for i in rng.choice(len(names), count, p=weights / weights.sum())]
