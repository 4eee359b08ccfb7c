"""Frames of a video file at given times, exactly: decoding starts early enough for all of them.

Shape key: n frames, H rows, W columns.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfalign.data.lerobot_format import INSTALL, LeRobotError

# A container is searched by decoding time, which runs ahead of the time of display where there are
# B-frames: the key frame found may be shown later than the frame wanted. Then search earlier [s].
_BACK_S = (0.0, 1.0, 4.0, 16.0, float("inf"))


def read_frames(file: Path, times_s: NDArray[np.float64], tolerance_s: float) -> NDArray[np.uint8]:
    """Decode the frames that are shown at `times_s`.

    Args:
        file: Any container that ffmpeg reads.
        times_s: Rising times [n] on the file's clock [s].
        tolerance_s: Farthest that the nearest frame may be from its time [s].

    Returns:
        RGB frames `[n, H, W, 3]` uint8.

    Raises:
        LeRobotError: PyAV is not installed, the file is missing or broken, or has no frame near one
            of the times.
    """
    if not len(times_s):
        raise LeRobotError(file, "", "no frames were asked for")
    try:
        import av
    except ImportError:
        raise LeRobotError(file, "", f"reading it needs PyAV: {INSTALL}") from None
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise LeRobotError(file, "", "holds no video stream")
            decoded = _from_before(container, float(times_s[0]) + tolerance_s)
            return _nearest(file, decoded, times_s, tolerance_s)
    except FileNotFoundError:
        raise LeRobotError(file, "", "does not exist") from None
    except av.FFmpegError as error:
        raise LeRobotError(file, "", f"cannot be decoded: {error}") from error


def _from_before(container: Any, first_s: float) -> Iterator[Any]:
    """All frames in the order of display, the first of them not after `first_s`."""
    stream = container.streams.video[0]
    for back_s in _BACK_S:
        start = max(0.0, first_s - back_s)
        container.seek(int(start / stream.time_base), stream=stream, backward=True)
        frames = (frame for frame in container.decode(stream) if frame.pts is not None)
        first = next(frames, None)
        if first is not None and (first.time <= first_s or start == 0):
            yield first
            yield from frames
            return


def _nearest(
    file: Path, frames: Iterator[Any], times_s: NDArray[np.float64], tolerance_s: float
) -> NDArray[np.uint8]:
    """The frame nearest to each time."""
    out: list[NDArray[np.uint8]] = []
    before = next(frames, None)
    while before is not None and len(out) < len(times_s):
        after = next(frames, None)
        while len(out) < len(times_s):
            wanted = float(times_s[len(out)])
            if after is not None and abs(after.time - wanted) < abs(before.time - wanted):
                break
            if abs(before.time - wanted) > tolerance_s:
                raise _missing(file, wanted, before.time, tolerance_s)
            out.append(before.to_ndarray(format="rgb24"))
        before = after
    if len(out) < len(times_s):
        raise LeRobotError(file, "", "holds no frames at all")
    return np.stack(out)


def _missing(file: Path, wanted: float, nearest: float, tolerance_s: float) -> LeRobotError:
    return LeRobotError(
        file,
        "",
        f"no frame at {wanted:.4f} s: the nearest is at {nearest:.4f} s, farther than "
        f"{tolerance_s:.4f} s; timestamps and video do not belong together",
    )
