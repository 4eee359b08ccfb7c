"""The prefix of an observation: what the frozen model computes once and every step reads.

Shape key: B batch, L layers, v key-value heads, P prefix tokens, e head width, N cameras,
F features.
"""

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from selfalign.model.device import upload
from selfalign.model.gemma import KeyValue


def padded(tokens_Bt: Tensor, token_mask_Bt: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """A prompt and its mask padded to a length; a longer one stays as it is."""
    room = max(0, length - tokens_Bt.shape[1])
    return F.pad(tokens_Bt, (0, room)), F.pad(token_mask_Bt, (0, room))


def token_mask_and_positions(
    image_mask_BN: Tensor, token_mask_Bt: Tensor, per_camera: int
) -> tuple[Tensor, Tensor]:
    """Which tokens of a prefix are there, bool [B, P], and their rotary positions [B, P]."""
    mask = torch.cat([image_mask_BN.repeat_interleave(per_camera, dim=1), token_mask_Bt], dim=1)
    return mask, mask.cumsum(-1).sub(1).clamp_min(0)


@final
@dataclass(frozen=True)
class Inputs:
    """Observations as a policy takes them: images [B, N, 3, S, S], masks, tokens, state [B, s]."""

    images: Tensor
    image_mask: Tensor
    tokens: Tensor
    token_mask: Tensor
    state: Tensor

    def with_prompts_of(self, length: int) -> Self:
        """The same, the prompts padded to a length."""
        tokens, mask = padded(self.tokens, self.token_mask, length)
        return replace(self, tokens=tokens, token_mask=mask)


@final
@dataclass(frozen=True)
class Features:
    """What alignment reads of the observation at t + k: a tiny part of its prefix. Read-only.

    features is [B, N, F], feature_mask bool [B, N].
    """

    features: Tensor
    feature_mask: Tensor

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of the tensors [byte]."""
        return self.features.nbytes + self.feature_mask.nbytes

    def index(self, rows: Tensor) -> Self:
        """Choose observations by an index tensor."""
        return type(self)(self.features[rows], self.feature_mask[rows])

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Join batches with the same number of cameras."""
        return cls(
            torch.cat([p.features for p in parts]), torch.cat([p.feature_mask for p in parts])
        )


@final
@dataclass(frozen=True)
class Prefix:
    """Keys, values and features of B observations. Read-only: nobody writes into these tensors.

    key_values is [B, L, 2, v, P, e], mask bool [B, P] with the `image_tokens` image tokens first,
    features [B, N, F], feature_mask bool [B, N].
    """

    key_values: Tensor
    mask: Tensor
    image_tokens: int
    features: Tensor
    feature_mask: Tensor

    def __len__(self) -> int:
        return self.key_values.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of the tensors [byte]."""
        return sum(t.nbytes for t in (self.key_values, self.mask, self.features, self.feature_mask))

    @property
    def lengths(self) -> Tensor:
        """Valid tokens of each observation [B]: the first rotary position after the prefix."""
        return self.mask.sum(-1)

    def to(self, device: torch.device) -> Self:
        """This prefix on a device; `upload` says how it gets there."""
        return type(self)(
            upload(self.key_values, device),
            upload(self.mask, device),
            self.image_tokens,
            upload(self.features, device),
            upload(self.feature_mask, device),
        )

    def image_mask(self) -> Tensor:
        """The mask [B, P] without the language tokens."""
        out = self.mask.clone()
        out[:, self.image_tokens :] = False
        return out

    def only_features(self) -> Features:
        """The features alone; they share memory with this prefix."""
        return Features(self.features, self.feature_mask)

    def layers(self) -> list[KeyValue]:
        """Keys and values of every layer, [B, v, P, e] each; views, not copies."""
        return [(kv[:, 0], kv[:, 1]) for kv in self.key_values.unbind(1)]

    def index(self, rows: Tensor) -> Self:
        """Choose observations by an index tensor."""
        return type(self)(
            self.key_values[rows],
            self.mask[rows],
            self.image_tokens,
            self.features[rows],
            self.feature_mask[rows],
        )

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Join batches whose prefixes have equal length."""
        return cls(
            torch.cat([p.key_values for p in parts]),
            torch.cat([p.mask for p in parts]),
            parts[0].image_tokens,
            torch.cat([p.features for p in parts]),
            torch.cat([p.feature_mask for p in parts]),
        )
