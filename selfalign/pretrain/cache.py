"""The frozen prefix of every recorded frame, computed once and kept in memory as half floats.

Shape key: N rows, L layers, v key-value heads, P prefix tokens, e head width, F features.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from selfalign.data.recording import PLAY, Recording
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix

_BATCH = 128


@final
@dataclass(frozen=True)
class PrefixCache:
    """key_values float16 [N, L, 2, v, P, e], mask bool [N, P], features float32 [N, 1, F]."""

    key_values: Tensor
    mask: Tensor
    features: Tensor
    image_tokens: int

    def at(self, rows: Tensor, length: int | None = None) -> Prefix:
        """The prefixes of some rows, cut to the first `length` tokens (play has a short prompt)."""
        return Prefix(
            self.key_values[rows][..., :length, :].float(),
            self.mask[rows][:, :length],
            self.image_tokens,
            self.features[rows],
            torch.ones(len(rows), 1, dtype=torch.bool),
        )

    def save(self, path: Path) -> None:
        """Write the cache as one safetensors file."""
        tensors = {"key_values": self.key_values, "mask": self.mask, "features": self.features}
        save_file(tensors, path, {"image_tokens": str(self.image_tokens)})

    @classmethod
    def load(cls, path: Path, image_tokens: int) -> Self:
        """Read what `save` wrote."""
        tensors = load_file(path)
        return cls(tensors["key_values"], tensors["mask"], tensors["features"], image_tokens)


@torch.inference_mode()
def build_cache(policy: Policy, recording: Recording) -> PrefixCache:
    """Encode every frame: play under the empty prompt, demonstrations under their instruction."""
    texts = [("" if e["kind"] == "play" else e["instruction"]) for e in recording.episodes]
    tokens, token_mask = policy.prompts.encode(texts)
    episode = np.asarray(recording["episode"])
    parts: list[Prefix] = []
    for start in tqdm(range(0, len(recording), _BATCH), desc="prefix cache", mininterval=5):
        pixels = torch.from_numpy(recording["images"][start : start + _BATCH].copy())
        images = pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)[:, None]
        rows = torch.from_numpy(episode[start : start + _BATCH]).long()
        camera = torch.ones(len(images), 1, dtype=torch.bool)
        prefix = policy.prefix(images, camera, tokens[rows], token_mask[rows])
        parts.append(
            Prefix(
                prefix.key_values.half(), prefix.mask, prefix.image_tokens, prefix.features, camera
            )
        )
    joined = Prefix.cat(parts)
    return PrefixCache(
        joined.key_values.clone(), joined.mask.clone(), joined.features.clone(), joined.image_tokens
    )


def play_length(cache: PrefixCache, recording: Recording) -> int:
    """Tokens that a play prefix needs: images and the empty prompt."""
    rows = torch.from_numpy(np.asarray(recording["kind"]) == PLAY)
    return int(cache.mask[rows].sum(-1).max())
