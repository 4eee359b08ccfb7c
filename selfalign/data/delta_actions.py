"""Actions relative to the state at the start of their chunk, as openpi and LeRobot train on them.

The same state is subtracted from every step of a chunk: they are no steps from one to the next.
What is not marked, such as a gripper, stays as it is.

Shape key: H steps of a chunk, A action numbers, s state numbers.
"""

from collections.abc import Sequence
from typing import TypeVar, final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.normalisation import NormalisationError

Floats = NDArray[np.floating]
Float = TypeVar("Float", bound=np.floating)


@final
class DeltaActions:
    """Which actions are relative: `mask[i]` pairs action i with state i."""

    def __init__(self, mask: Sequence[bool], *, actions: int, states: int) -> None:
        """Take a mask of at most A marks; actions beyond it stay absolute.

        Raises:
            NormalisationError: a mark has no action or no state.
        """
        marked = [index for index, relative in enumerate(mask) if relative]
        if marked and marked[-1] >= min(actions, states):
            raise NormalisationError(
                f"delta_actions marks action {marked[-1]}, but the robot has {actions} actions and "
                f"{states} state numbers; a relative action needs the state of the same index"
            )
        self._marked = np.array(marked, dtype=np.int64)

    def relative(self, actions: NDArray[Float], state: Floats) -> NDArray[Float]:
        """Actions `[..., H, A]` less the state `[..., s]` at the start of the chunk; a copy."""
        return self._shifted(actions, state, -1)

    def absolute(self, actions: NDArray[Float], state: Floats) -> NDArray[Float]:
        """The inverse of `relative`."""
        return self._shifted(actions, state, 1)

    def _shifted(self, actions: NDArray[Float], state: Floats, sign: int) -> NDArray[Float]:
        out = actions.copy()
        out[..., self._marked] += sign * state[..., None, self._marked]
        return out
