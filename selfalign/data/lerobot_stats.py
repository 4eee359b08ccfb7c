"""Statistics of a dataset as LeRobot keeps them, gathered block by block.

Shape key: n rows, D numbers, H rows and W columns of an image.
"""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
# Every so many pixels of an image count, each way.
_STEP = 4


@final
class Tally:
    """Min, max, mean, standard deviation, quantiles and count of every feature."""

    def __init__(self) -> None:
        self._rows: dict[str, list[NDArray[np.floating]]] = {}
        self._levels: dict[str, NDArray[np.int64]] = {}
        self._frames: dict[str, int] = {}

    def add_numbers(self, feature: str, values: NDArray[Any]) -> None:
        """Add rows `[n]` or `[n, D]` of a feature."""
        rows = values.reshape(len(values), -1).astype(np.float64)
        self._rows.setdefault(feature, []).append(rows)

    def add_images(self, feature: str, images: NDArray[np.uint8]) -> None:
        """Add images `[n, H, W, 3]`: how often each level occurs in each channel."""
        counts = self._levels.setdefault(feature, np.zeros((3, 256), np.int64))
        for channel in range(3):
            pixels = images[:, ::_STEP, ::_STEP, channel]
            counts[channel] += np.bincount(pixels.ravel(), minlength=256)
        self._frames[feature] = self._frames.get(feature, 0) + len(images)

    def result(self) -> dict[str, dict[str, Any]]:
        """The content of meta/stats.json: `[D]` for numbers, `[3, 1, 1]` in [0, 1] for images."""
        numbers = {name: _of_rows(np.concatenate(rows)) for name, rows in self._rows.items()}
        images = {
            name: _of_levels(counts) | {"count": [self._frames[name]]}
            for name, counts in self._levels.items()
        }
        return numbers | images


def _of_rows(rows: NDArray[np.float64]) -> dict[str, Any]:
    values = {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        **{name: np.quantile(rows, share, axis=0) for name, share in _QUANTILES.items()},
    }
    return {name: value.tolist() for name, value in values.items()} | {"count": [len(rows)]}


def _of_levels(counts_3L: NDArray[np.int64]) -> dict[str, Any]:
    level, total = np.arange(256) / 255, counts_3L.sum(1)
    share = counts_3L / total[:, None]
    mean = share @ level
    std = np.sqrt((share * (level - mean[:, None]) ** 2).sum(1))
    reached = share.cumsum(1)
    values = {
        "min": level[(counts_3L > 0).argmax(1)],
        "max": level[255 - (counts_3L[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": std,
        **{name: level[(reached >= q - 1e-12).argmax(1)] for name, q in _QUANTILES.items()},
    }
    return {name: value.reshape(3, 1, 1).tolist() for name, value in values.items()}
