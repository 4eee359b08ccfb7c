"""Transitions ready for the alignment pass: prefixes computed once, targets in normalised units.

Shape key: B transitions, s state numbers, k stride, A action numbers, N cameras, F features.
"""

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from selfalign.model.prefix import Features, Prefix


@final
@dataclass(frozen=True)
class TransitionBatch:
    """B transitions of one or more embodiments.

    `now` is the prefix of t, `following` the features of t + k; state is [B, s], actions
    [B, k, A], both normalised; the masks say which numbers the losses count: state_mask bool
    [B, s], action_mask bool [B, A].
    """

    now: Prefix
    following: Features
    state: Tensor
    actions: Tensor
    state_mask: Tensor
    action_mask: Tensor

    def __len__(self) -> int:
        return len(self.now)

    @property
    def feature_change(self) -> Tensor:
        """What dynamics predicts: the change of the frozen vision feature [B, N, F]."""
        return self.following.features - self.now.features

    @property
    def nbytes(self) -> int:
        """Memory of the cached prefixes and features [byte]."""
        return self.now.nbytes + self.following.nbytes

    def index(self, rows: Tensor) -> Self:
        """Choose transitions by an index tensor."""
        return type(self)(
            self.now.index(rows),
            self.following.index(rows),
            self.state[rows],
            self.actions[rows],
            self.state_mask[rows],
            self.action_mask[rows],
        )

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Join batches of robots with the same number of cameras."""
        return cls(
            Prefix.cat([p.now for p in parts]),
            Features.cat([p.following for p in parts]),
            *(
                torch.cat([getattr(p, name) for p in parts])
                for name in ("state", "actions", "state_mask", "action_mask")
            ),
        )
