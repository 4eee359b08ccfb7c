"""Play in a file: what a robot without a network wrote, to be sent later.

A numpy archive (`.npz`) with, for n steps: `images/<camera>` [n, height, width, 3] uint8, `state`
[n, S], `action` [n, A] (executed after the observation of the same row), `t_ns` [n] int64, and
optionally `instruction` (one text).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from client.chunk import Observation
from client.errors import ClientError

_IMAGES: Final = "images/"


class BadPlayFile(ClientError):
    """A file of play that cannot be used."""


@final
@dataclass(frozen=True)
class PlayFile:
    """Consecutive play steps of one robot."""

    images: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    t_ns: NDArray[np.int64]
    instruction: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Load a file.

        Raises:
            BadPlayFile: It is not of the format, saying in what.
        """
        arrays = _arrays(path)
        missing = [name for name in ("state", "action", "t_ns") if name not in arrays]
        images = {
            name.removeprefix(_IMAGES): array
            for name, array in arrays.items()
            if name.startswith(_IMAGES)
        }
        if missing or not images:
            wanted = missing or [f"{_IMAGES}<camera>"]
            raise BadPlayFile(f"{path} lacks {', '.join(wanted)}; it holds {sorted(arrays)}")
        _check_kinds(path, arrays)
        lengths = {name: len(arrays[name]) for name in ("state", "action", "t_ns")}
        lengths |= {_IMAGES + name: len(array) for name, array in images.items()}
        if len(set(lengths.values())) != 1:
            raise BadPlayFile(f"{path} holds arrays of different length: {lengths}")
        if lengths["t_ns"] == 0:
            raise BadPlayFile(f"{path} holds no step: all its arrays are of length 0")
        instruction = str(arrays["instruction"]) if "instruction" in arrays else None
        return cls(
            images=images,
            state=arrays["state"].astype(np.float32),
            action=arrays["action"].astype(np.float32),
            t_ns=arrays["t_ns"].astype(np.int64),
            instruction=instruction,
        )

    def write(self, path: Path) -> None:
        """Save to a file that `read` takes."""
        arrays: dict[str, NDArray[np.generic]] = {
            _IMAGES + name: array for name, array in self.images.items()
        }
        arrays |= {"state": self.state, "action": self.action, "t_ns": self.t_ns}
        if self.instruction is not None:
            arrays["instruction"] = np.asarray(self.instruction)
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def __len__(self) -> int:
        return len(self.t_ns)

    def steps(self) -> Iterator[tuple[Observation, NDArray[np.float32], int]]:
        """Observation, action executed after it, and time of the observation [ns], in order."""
        for i in range(len(self)):
            observation: Observation = {
                "images": {name: array[i] for name, array in self.images.items()},
                "state": self.state[i],
            }
            if self.instruction is not None:
                observation["instruction"] = self.instruction
            yield observation, self.action[i], int(self.t_ns[i])


def _check_kinds(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Raises BadPlayFile for the first array that cannot be what its name says.

    What depends on the robot (how many numbers, the size of images) the server checks.
    """
    for name, array in arrays.items():
        if name in ("state", "action"):
            fits, wanted = array.ndim == 2 and array.dtype.kind in "iuf", "numbers [n, m]"
        elif name == "t_ns":
            fits, wanted = array.ndim == 1 and array.dtype.kind in "iu", "integers [n], nanoseconds"
        elif name == "instruction":
            fits, wanted = array.ndim == 0 and array.dtype.kind == "U", "one text"
        elif name.startswith(_IMAGES):
            fits = array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.uint8
            wanted = "uint8 [n, height, width, 3]"
        else:
            continue
        if not fits:
            raise BadPlayFile(
                f"{path}: {name} must be {wanted}, got {array.dtype} {list(array.shape)}"
            )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by name. Raises BadPlayFile."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise BadPlayFile(
                    f"{path} is no numpy archive (.npz) of play: expected what numpy.savez writes, "
                    f"with {_IMAGES}<camera>, state, action and t_ns"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadPlayFile(f"{path} is no numpy archive (.npz) of play: {reason}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadPlayFile(
            f"{path} is no numpy archive (.npz) of play: one of its members is damaged, or holds "
            "objects where arrays of numbers are expected"
        ) from error
