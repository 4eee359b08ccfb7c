"""Resizing of camera images without distortion, as the published checkpoints were trained on it.

openpi resizes bytes with PIL (bilinear, antialiased where it shrinks, rounded to bytes). LeRobot
resizes floats with torch (bilinear, no antialiasing, not rounded). Both centre on black.

Shape key: H rows, W columns, S side of the model's image.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Rows and columns of an image that is fitted into a square of side `size`."""
    # Dividing by the ratio is the sources' rounding; multiplying can give one pixel less.
    ratio = max(width / size, height / size)
    return max(1, int(height / ratio)), max(1, int(width / ratio))


def resize_with_pad(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Fit `[H, W, 3]` into `[S, S, 3]` with PIL.

    An image that already has the size is returned as it is, not copied.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    rows, columns = fitted_size(height, width, size)
    resized = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
    canvas = np.zeros((size, size, 3), dtype=np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    canvas[top : top + rows, left : left + columns] = np.asarray(resized)
    return canvas


def resize_floats(image: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Fit `[H, W, 3]` into `[S, S, 3]` float32 in [0, 1] with torch."""
    # The recorder checks observations too, and must not carry torch: half a gigabyte.
    import torch
    from torch.nn import functional as F

    pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None].float() / 255
    height, width = image.shape[:2]
    if (height, width) != (size, size):
        rows, columns = fitted_size(height, width, size)
        resized = F.interpolate(pixels, size=(rows, columns), mode="bilinear", align_corners=False)
        top, left = (size - rows) // 2, (size - columns) // 2
        borders = (left, size - columns - left, top, size - rows - top)
        pixels = F.pad(resized.clamp(0.0, 1.0), borders)
    return pixels[0].permute(1, 2, 0).numpy()
