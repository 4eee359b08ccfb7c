"""The alignment pass: masked groups of tokens through the action expert, then expert and heads.

Nothing bypasses W: the heads read the alignment expert, which reads only the action expert's
output. Who may attend to what is the table in ARCHITECTURE.md ("alignment without leaks"):

    perception        image and language tokens of t                      -> state at t
    inverse dynamics  change of the frozen vision feature from t to t + k -> the k actions between
    dynamics          image tokens of t, state at t, the k actions        -> that change

Inverse dynamics reads the change and not the image tokens themselves: seconds of play are too few
to fit two absolute appearances, and W learned them by heart (docs/log.md).

Shape key: B batch, P prefix tokens, T = 5 + k alignment tokens, k stride, D width, S state numbers,
A action numbers, N cameras, F features.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from selfalign.model.config import ModelConfig
from selfalign.model.gemma import GemmaStack
from selfalign.model.prefix import Prefix

# Rows of the token table, in order; the k action tokens stand between STATE and the last token.
# INVERSE_NOW takes in and attends to nothing but its group, INVERSE_NEXT, which attends to it in
# turn: a constant. The shipped weights were trained with it, so it stays.
PERCEPTION, INVERSE_NOW, INVERSE_NEXT, STATE = 0, 1, 2, 3
_FIRST_ACTION = 4


@final
@dataclass(frozen=True)
class AlignmentPrediction:
    """What the three heads say, in normalised units: [B, S], [B, k, A], [B, N, F]."""

    state: Tensor
    actions: Tensor
    feature_change: Tensor


@final
class AlignmentExpert(nn.Module):
    """Learned query tokens, the alignment expert and the three heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.action.width
        self.config = config
        self.queries = nn.Parameter(torch.randn(4, width) * 0.5)
        self.action_positions = nn.Parameter(torch.randn(config.stride, width) * 0.1)
        self.change_in = nn.Linear(config.max_cameras * config.feature_dim, width)
        nn.init.zeros_(self.change_in.weight)
        nn.init.zeros_(self.change_in.bias)
        self.expert = GemmaStack(config.alignment)
        self.perception_head = nn.Linear(width, config.state_dim)
        self.inverse_dynamics_head = nn.Linear(width, config.stride * config.action_dim)
        self.dynamics_head = nn.Linear(width, config.max_cameras * config.feature_dim)

    @property
    def n_tokens(self) -> int:
        """Tokens of one alignment pass."""
        return _FIRST_ACTION + self.config.stride + 1

    def tokens(self, state_BD: Tensor, actions_BkD: Tensor, change_BNF: Tensor) -> Tensor:
        """The embedded tokens [B, T, D] from embedded state and actions and the feature's change.

        INVERSE_NEXT takes the change in; no other token does.
        """
        batch = state_BD.shape[0]
        q = self.queries.expand(batch, -1, -1).clone()
        change = change_BNF.flatten(1)
        change = nn.functional.pad(change, (0, self.change_in.in_features - change.shape[1]))
        q[:, INVERSE_NEXT] += self.change_in(change.to(self.change_in.weight.dtype))
        actions = actions_BkD + self.action_positions
        return torch.cat([q[:, :3], state_BD[:, None], actions, q[:, 3:]], dim=1)

    def group_mask(self, device: torch.device) -> Tensor:
        """bool [T, T]: True within a group."""
        group = torch.tensor([0, 1, 1] + [2] * (self.n_tokens - 3), device=device)
        return group[:, None] == group[None, :]

    def prefix_mask(self, now: Prefix) -> Tensor:
        """bool [B, T, P]: which token reads which token of the prefix of t."""
        batch, length = now.mask.shape
        out = now.mask.new_zeros(batch, self.n_tokens, length)
        out[:, PERCEPTION] = now.mask
        out[:, STATE:] = now.image_mask()[:, None]
        return out

    def positions(self, now: Prefix) -> Tensor:
        """Rotary positions [B, T]: after the prefix, counted within the group."""
        offsets = torch.tensor([0, 0, 0, *range(self.n_tokens - 3)], device=now.mask.device)
        return now.lengths[:, None] + offsets

    def forward(self, hidden_BTD: Tensor) -> AlignmentPrediction:
        """Read the action expert's output of the alignment tokens."""
        batch, tokens, _ = hidden_BTD.shape
        positions = torch.arange(tokens, device=hidden_BTD.device).expand(batch, -1)
        mask = self.group_mask(hidden_BTD.device).expand(batch, -1, -1)
        out = self.expert(hidden_BTD, positions, mask).hidden
        config = self.config
        return AlignmentPrediction(
            state=self.perception_head(out[:, PERCEPTION]),
            actions=self.inverse_dynamics_head(out[:, INVERSE_NEXT]).unflatten(
                -1, (config.stride, config.action_dim)
            ),
            feature_change=self.dynamics_head(out[:, -1]).unflatten(
                -1, (config.max_cameras, config.feature_dim)
            ),
        )
