"""Prefixes of a dataset's frames, each under two prompts: alignment's empty one, and its own.

They are kept on disk when they fit, and computed anew in every iteration when they do not: at full
size one prefix takes 18 MB.

Shape key: B rows, N rows of the dataset, P prefix tokens.
"""

from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from selfalign.align.robot_io import RobotIO
from selfalign.data.observation import encode_frames
from selfalign.model.prefix import Features, Prefix
from selfalign.pretrain.dataset_frames import DatasetFrames

Prompt = Literal["empty", "own"]

_BATCH = 64
_PARTS = ("key_values", "mask", "features")


@final
class DatasetPrefixes:
    """Prefixes of rows by prompt, computed from the frames. Carries no gradient."""

    def __init__(self, io: RobotIO, frames: DatasetFrames) -> None:
        self._io, self._frames = io, frames
        self._tokens: dict[Prompt, tuple[Tensor, Tensor]] = {
            "own": self._own_tokens(),
            "empty": self._of_tasks([""], np.zeros_like(frames.task)),
        }
        self._kept: dict[str, dict[str, NDArray[Any]]] = {}

    @property
    def are_kept(self) -> bool:
        """Whether all prefixes are on disk, so that none needs the policy."""
        return len(self._kept) == len(self._tokens)

    def at(self, rows: NDArray[np.int64], prompt: Prompt) -> Prefix:
        """The prefixes of some rows [B]."""
        if prompt in self._kept:
            return self._read(rows, prompt)
        parts = [self._computed(rows[i : i + _BATCH], prompt) for i in range(0, len(rows), _BATCH)]
        return parts[0] if len(parts) == 1 else Prefix.cat(parts)

    def features_at(self, rows: NDArray[np.int64]) -> Features:
        """The vision features of some rows [B], without their prefixes where these are kept."""
        if "empty" not in self._kept:
            whole = self.at(rows, "empty")
            return Features(whole.features, whole.feature_mask)
        features = self._tensor("empty", "features", rows)
        return Features(features, self._every_camera(len(rows)))

    def keep(self, directory: Path, most_bytes: int) -> bool:
        """Compute all prefixes once and keep them as half floats, if they take `most_bytes`.

        Returns whether they are kept. A directory that holds them already is only opened.
        """
        first = {prompt: self.at(np.zeros(1, np.int64), prompt) for prompt in self._tokens}
        size = sum(p.key_values.numel() * 2 + p.features.nbytes for p in first.values())
        if size * len(self._frames) > most_bytes:
            return False
        for prompt, one in first.items():
            path = directory / prompt
            if not (path / "done").exists():
                self._write(path, prompt, one)
            self._kept[prompt] = {n: np.load(path / f"{n}.npy", mmap_mode="r") for n in _PARTS}
        return True

    def _own_tokens(self) -> tuple[Tensor, Tensor]:
        """Tokens and mask of each row's instruction, with the state where the model reads it."""
        frames, states = self._frames, self._io.numbers.prompt_states(self._frames.state)
        if states is None:
            return self._of_tasks(frames.texts, frames.task)
        texts = [frames.texts[task] for task in frames.task.tolist()]
        return self._io.policy.prompts.encode(texts, states=states)

    def _of_tasks(self, texts: list[str], task: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        tokens, mask = self._io.policy.prompts.encode(texts)
        return tokens[torch.from_numpy(task)], mask[torch.from_numpy(task)]

    @torch.no_grad()
    def _computed(self, rows: NDArray[np.int64], prompt: Prompt) -> Prefix:
        images = {name: np.array(stored[rows]) for name, stored in self._frames.images.items()}
        io, processing = self._io, self._io.numbers.processing
        pixels, _ = encode_frames(
            images,
            io.spec,
            io.policy.config.vision.image_size,
            len(io.spec.cameras),
            resize="pil" if processing is None else processing.image_resize,
        )
        cameras = self._every_camera(len(rows))
        at = torch.from_numpy(rows)
        tokens, mask = (part[at].to(io.device) for part in self._tokens[prompt])
        return io.policy.prefix(torch.from_numpy(pixels).to(io.device), cameras, tokens, mask)

    def _write(self, path: Path, prompt: Prompt, one: Prefix) -> None:
        path.mkdir(parents=True, exist_ok=True)
        count = len(self._frames)
        files = {
            name: open_memmap(
                path / f"{name}.npy",
                "w+",
                dtype=dtype,
                shape=(count, *getattr(one, name).shape[1:]),
            )
            for name, dtype in zip(_PARTS, (np.float16, np.bool_, np.float32), strict=True)
        }
        for start in tqdm(range(0, count, _BATCH), desc=f"prefixes, {prompt}", mininterval=5):
            rows = np.arange(start, min(start + _BATCH, count))
            prefix = self._computed(rows, prompt)
            for name, file in files.items():
                file[rows] = getattr(prefix, name).float().cpu().numpy()
        for file in files.values():
            file.flush()
        (path / "done").touch()

    def _read(self, rows: NDArray[np.int64], prompt: Prompt) -> Prefix:
        key_values, mask, features = (self._tensor(prompt, name, rows) for name in _PARTS)
        image_tokens = len(self._io.spec.cameras) * self._io.policy.config.vision.tokens
        every = self._every_camera(len(rows))
        return Prefix(key_values.float(), mask, image_tokens, features, every)

    def _tensor(self, prompt: Prompt, name: str, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.array(self._kept[prompt][name][rows])).to(self._io.device)

    def _every_camera(self, count: int) -> Tensor:
        cameras = len(self._io.spec.cameras)
        return torch.ones(count, cameras, dtype=torch.bool, device=self._io.device)
