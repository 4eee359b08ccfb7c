"""Recorded pixels as the vision tower takes them.

Shape key: M images, S image side.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_pixels(images_MSS3: NDArray[np.uint8]) -> Tensor:
    """Recorded images [M, S, S, 3] to [M, 3, S, S] in [-1, 1]. Copy memory-mapped ones first."""
    pixels = torch.from_numpy(images_MSS3).permute(0, 3, 1, 2)
    return pixels.float().div_(127.5).sub_(1.0)
