"""The frozen prefix of every recorded frame, computed once and kept in a file as half floats.

Shape key: N rows, L layers, v key-value heads, P prefix tokens, e head width, F features.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from selfalign.data.recording import PLAY, Recording
from selfalign.errors import StoreError
from selfalign.model.policy import Policy
from selfalign.model.prefix import Features, Prefix
from selfalign.pretrain.embodiments import load_groups, normalised_states
from selfalign.pretrain.mapped_file import create_tensors
from selfalign.pretrain.pixels import to_pixels

_BATCH = 128
DTYPES = {"key_values": torch.float16, "mask": torch.bool, "features": torch.float32}


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

    def features_at(self, rows: Tensor) -> Features:
        """The features of some rows, without their prefixes."""
        return Features(self.features[rows], torch.ones(len(rows), 1, dtype=torch.bool))

    @classmethod
    def load(cls, path: Path, image_tokens: int) -> Self:
        """Map the file of a cache.

        Nothing is read before it is used, the system may drop what was, and processes share it.
        """
        return cls(**load_file(path), image_tokens=image_tokens)


def build_cache(policy: Policy, recording: Recording, path: Path | None = None) -> PrefixCache:
    """Encode every frame: play under the empty prompt, demonstrations under their instruction."""
    texts = [("" if e["kind"] == "play" else e["instruction"]) for e in recording.episodes]
    prompt = np.asarray(recording["episode"])
    rows = np.arange(len(recording))
    return encode_rows(policy, recording, rows, texts, prompt, path=path)


@torch.no_grad()
def encode_rows(
    policy: Policy,
    recording: Recording,
    rows: NDArray[np.int64],
    texts: list[str],
    prompt: NDArray[np.integer],
    *,
    path: Path | None = None,
) -> PrefixCache:
    """Encode frames `rows` [n] of a recording, frame i under the instruction texts[prompt[i]].

    pi0.5 reads the state there as well, but under the empty instruction of alignment. With a path
    the cache is built in that file, which appears when it is whole; without one in memory.
    """
    tokens, token_mask = _prompts(policy, recording, rows, texts, prompt)
    cache: PrefixCache | None = None
    partial = None if path is None else path.with_suffix(".tmp")
    for start in tqdm(range(0, len(rows), _BATCH), desc="prefix cache", mininterval=5):
        at = slice(start, min(start + _BATCH, len(rows)))
        images = to_pixels(np.array(recording["images"][rows[at]]))[:, None]
        camera = torch.ones(len(images), 1, dtype=torch.bool)
        inputs = (images, camera, tokens[at], token_mask[at])
        prefix = policy.prefix(*(tensor.to(policy.device) for tensor in inputs))
        # One allocation for all rows: the cache is gigabytes, a second copy may not fit.
        cache = cache or _empty(prefix, len(rows), partial)
        cache.key_values[at] = prefix.key_values.half()
        cache.mask[at], cache.features[at] = prefix.mask, prefix.features
    if cache is None:
        raise StoreError(f"{recording.directory} holds no frames to encode; record some first")
    if path is not None and partial is not None:
        partial.rename(path)
    return cache


def _prompts(
    policy: Policy,
    recording: Recording,
    rows: NDArray[np.int64],
    texts: list[str],
    prompt: NDArray[np.integer],
) -> tuple[Tensor, Tensor]:
    """Tokens and mask [n, t] of frames `rows` under their instructions."""
    encode, at = policy.prompts.encode, torch.from_numpy(prompt.astype(np.int64))
    told = np.flatnonzero([bool(texts[i]) for i in prompt])
    if policy.config.flavour == "pi0" or not len(told):
        tokens, mask = encode(texts)
        return tokens[at], mask[at]
    groups = load_groups(recording, policy.config)
    states, joints = normalised_states(recording, groups, policy.config.state_dim)
    # A state is the joints and the gripper, which is no target of alignment.
    own = [states[row, : joints[row].sum() + 1] for row in rows[told]]
    stated, stated_mask = encode([texts[i] for i in prompt[told]], states=own)
    empty, empty_mask = encode([""], stated.shape[1])
    tokens, mask = empty.repeat(len(rows), 1), empty_mask.repeat(len(rows), 1)
    tokens[told], mask[told] = stated, stated_mask
    return tokens, mask


def _empty(prefix: Prefix, rows: int, path: Path | None) -> PrefixCache:
    """A cache for so many rows, in memory or in a new file."""
    shapes = {name: (rows, *getattr(prefix, name).shape[1:]) for name in DTYPES}
    tensors = (
        {name: torch.empty(shape, dtype=DTYPES[name]) for name, shape in shapes.items()}
        if path is None
        else create_tensors(path, {name: (DTYPES[name], shapes[name]) for name in DTYPES})
    )
    return PrefixCache(**tensors, image_tokens=prefix.image_tokens)


def play_length(cache: PrefixCache, recording: Recording) -> int:
    """Tokens that a play prefix needs: images and the empty prompt."""
    rows = torch.from_numpy(np.asarray(recording["kind"]) == PLAY)
    return int(cache.mask[rows].sum(-1).max())
