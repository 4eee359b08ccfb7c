"""The frozen prefix of every recorded frame, computed once and kept in memory as half floats.

Shape key: N rows, L layers, v key-value heads, P prefix tokens, e head width, F features.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from selfalign.data.recording import PLAY, Recording
from selfalign.errors import StoreError
from selfalign.model.policy import Policy
from selfalign.model.prefix import Features, Prefix
from selfalign.pretrain.embodiments import load_groups, normalised_states
from selfalign.pretrain.pixels import to_pixels

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

    def features_at(self, rows: Tensor) -> Features:
        """The features of some rows, without their prefixes."""
        return Features(self.features[rows], torch.ones(len(rows), 1, dtype=torch.bool))

    def save(self, path: Path) -> None:
        """Write the cache as one safetensors file; `path` appears only when it is whole."""
        tensors = {"key_values": self.key_values, "mask": self.mask, "features": self.features}
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, {"image_tokens": str(self.image_tokens)})
        temporary.rename(path)

    @classmethod
    def load(cls, path: Path, image_tokens: int) -> Self:
        """Read what `save` wrote."""
        tensors = load_file(path)
        return cls(tensors["key_values"], tensors["mask"], tensors["features"], image_tokens)


def build_cache(policy: Policy, recording: Recording) -> PrefixCache:
    """Encode every frame: play under the empty prompt, demonstrations under their instruction."""
    texts = [("" if e["kind"] == "play" else e["instruction"]) for e in recording.episodes]
    prompt = np.asarray(recording["episode"])
    return encode_rows(policy, recording, np.arange(len(recording)), texts, prompt)


@torch.no_grad()
def encode_rows(
    policy: Policy,
    recording: Recording,
    rows: NDArray[np.int64],
    texts: list[str],
    prompt: NDArray[np.integer],
) -> PrefixCache:
    """Encode frames `rows` [n] of a recording, frame i under the instruction texts[prompt[i]].

    pi0.5 reads the state there as well, but under the empty instruction of alignment.
    """
    tokens, token_mask = _prompts(policy, recording, rows, [texts[i] for i in prompt])
    cache: PrefixCache | None = None
    for start in tqdm(range(0, len(rows), _BATCH), desc="prefix cache", mininterval=5):
        at = slice(start, min(start + _BATCH, len(rows)))
        images = to_pixels(np.array(recording["images"][rows[at]]))[:, None]
        camera = torch.ones(len(images), 1, dtype=torch.bool)
        inputs = (images, camera, tokens[at], token_mask[at])
        prefix = policy.prefix(*(tensor.to(policy.device) for tensor in inputs))
        # One allocation for all rows: the cache is gigabytes, a second copy may not fit.
        cache = cache or _empty(prefix, len(rows))
        cache.key_values[at] = prefix.key_values.half()
        cache.mask[at], cache.features[at] = prefix.mask, prefix.features
    if cache is None:
        raise StoreError(f"{recording.directory} holds no frames to encode; record some first")
    return cache


def _prompts(
    policy: Policy, recording: Recording, rows: NDArray[np.int64], texts: list[str]
) -> tuple[Tensor, Tensor]:
    """Tokens and mask [n, t] of frames `rows` under their instructions `texts` [n]."""
    encode = policy.prompts.encode
    told = np.array([i for i, text in enumerate(texts) if text], np.int64)
    if policy.config.flavour == "pi0" or not len(told):
        kinds = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        at = torch.tensor([kinds[text] for text in texts], dtype=torch.int64)
        tokens, mask = encode(list(kinds) or [""])
        return tokens[at], mask[at]
    groups = load_groups(recording, policy.config)
    states, joints = normalised_states(recording, groups, policy.config.state_dim)
    # A state is the joints and the gripper, which is no target of alignment.
    own = [states[row, : joints[row].sum() + 1] for row in rows[told]]
    stated, stated_mask = encode([texts[i] for i in told], states=own)
    empty, empty_mask = encode([""], stated.shape[1])
    tokens, mask = empty.repeat(len(rows), 1), empty_mask.repeat(len(rows), 1)
    tokens[told], mask[told] = stated, stated_mask
    return tokens, mask


def _empty(prefix: Prefix, rows: int) -> PrefixCache:
    def room(like: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, *like.shape[1:], dtype=dtype)

    return PrefixCache(
        room(prefix.key_values, torch.float16),
        room(prefix.mask, torch.bool),
        room(prefix.features, torch.float32),
        prefix.image_tokens,
    )


def play_length(cache: PrefixCache, recording: Recording) -> int:
    """Tokens that a play prefix needs: images and the empty prompt."""
    rows = torch.from_numpy(np.asarray(recording["kind"]) == PLAY)
    return int(cache.mask[rows].sum(-1).max())
