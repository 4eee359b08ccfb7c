"""Vision tower: stock SigLIP, merged patches, projector, and the frozen feature of a picture.

Shape key: M images, p patches, I image tokens of one camera, V tower width, E = V * merge^2,
D prefix width, F feature numbers.
"""

from typing import final

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from selfalign.model.config import VisionConfig


@final
class FeatureReadout(nn.Module):
    """A fixed linear map from the image tokens of a picture to a few numbers.

    Its change from t to t + k is what the dynamics head predicts, in units of `spread`. The map is
    part of the frozen model: trained in stage 1 for the small model, random for a loaded one.
    """

    spread: Tensor

    def __init__(self, tokens: int, token_width: int, feature_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(tokens * token_width, feature_dim)
        self.register_buffer("spread", torch.ones(feature_dim))

    def forward(self, tokens_MIE: Tensor) -> Tensor:
        """[M, I, E] to [M, F]."""
        return self.linear(tokens_MIE.flatten(1))


@final
class MeanReadout(nn.Module):
    """The mean of the image tokens of a picture: the feature of published models, no new weights.

    `spread` scales its change as in `FeatureReadout`.
    """

    spread: Tensor

    def __init__(self, token_width: int) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(token_width))

    def forward(self, tokens_MIE: Tensor) -> Tensor:
        """[M, I, E] to [M, E]."""
        return tokens_MIE.mean(1)


@final
class VisionTower(nn.Module):
    """Images to prefix tokens. `tower` and `projector` keep the names of published checkpoints."""

    def __init__(self, config: VisionConfig, prefix_width: int, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        self.tower = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=config.width,
                intermediate_size=config.mlp_dim,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
                vision_use_head=False,
            )
        )
        self.projector = nn.Linear(config.token_width, prefix_width)
        self.readout: MeanReadout | FeatureReadout = (
            MeanReadout(config.token_width)
            if config.readout == "mean"
            else FeatureReadout(config.tokens, config.token_width, feature_dim)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the layers; the embeddings of patches may have more."""
        return self.projector.weight.dtype

    def tokens(self, images_M3SS: Tensor) -> Tensor:
        """Images in [-1, 1] to merged tokens [M, I, E], before the projector."""
        patches = self.tower.embeddings(images_M3SS).to(self.dtype)
        encoded = self.tower.encoder(inputs_embeds=patches).last_hidden_state
        return merge_patches(self.tower.post_layernorm(encoded), self.config.token_merge)

    def forward(self, images_M3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens [M, I, D] and features [M, F]."""
        tokens = self.tokens(images_M3SS)
        return self.projector(tokens), self.readout(tokens)


def merge_patches(patches_MpV: Tensor, merge: int) -> Tensor:
    """Join squares of merge x merge patches: [M, p, V] to [M, p / merge^2, V merge^2]."""
    if merge == 1:
        return patches_MpV
    images, patches, width = patches_MpV.shape
    side = round(patches**0.5)
    grid = patches_MpV.reshape(images, side // merge, merge, side // merge, merge, width)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(images, (side // merge) ** 2, -1)
