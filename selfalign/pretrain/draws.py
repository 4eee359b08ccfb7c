"""Whose numbers a batch is drawn with: one generator for all, or one for every embodiment.

In training every slot has a generator of its own. So a slot's rows are the same however the slots
of an iteration are cut into micro-batches and shared by processes.
"""

from collections.abc import Sequence

import numpy as np

Draws = np.random.Generator | Sequence[np.random.Generator]


def each(draws: Draws, count: int) -> Sequence[np.random.Generator]:
    """The generator of each of `count` embodiments. Raises ValueError when there are others."""
    if isinstance(draws, np.random.Generator):
        return [draws] * count
    if len(draws) != count:
        raise ValueError(f"{len(draws)} generators for {count} embodiments")
    return draws
