"""Which numbers of a robot alignment predicts."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# Anywhere in a name: gripper_opening, left_gripper, main_gripper.pos.
_GRIPPER = "gripper"


def aligned_numbers(names: Iterable[str], width: int) -> NDArray[np.bool_]:
    """Mask [width] of the state or action numbers that the alignment losses count.

    All but grippers: play moves a gripper through its whole range, so that it would make up most of
    the loss, but its opening can hardly be seen and says nothing about camera or action space. W
    would learn it by heart. Grippers stay inputs of alignment, and are acted with as ever.
    """
    seen = [_GRIPPER not in name.lower() for name in names]
    return np.array(seen + [False] * (width - len(seen)), dtype=np.bool_)
