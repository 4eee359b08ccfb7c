"""Appearance: how a scene looks, not where things are. Colours, light, sharpness, sensor noise.

No flip, no crop, no turn: these would move the robot in the picture, and what W says of camera and
action space would be wrong. The operations are those of `torchvision.transforms.v2.functional`, to
rounding; torchvision takes one factor a call, these take one an image.

Shape key: B images, H rows, W columns.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from selfalign.errors import SelfAlignError

# Luma of ITU-R BT.601, with torchvision's digits.
_LUMA = (0.2989, 0.587, 0.114)


class AugmentationError(SelfAlignError):
    """Images or actions that an augmentation cannot take."""


class AppearanceConfig(BaseModel):
    """How far an image may change at strength 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strength: float = Field(1.0, ge=0, le=1, description="Multiplies all of these; 0: identity")
    brightness: float = Field(0.3, ge=0, lt=1, description="Factor 1 - b to 1 + b")
    contrast: float = Field(0.3, ge=0, lt=1, description="Factor 1 - c to 1 + c")
    saturation: float = Field(0.3, ge=0, lt=1, description="Factor 1 - s to 1 + s")
    hue: float = Field(0.05, ge=0, le=0.5, description="Largest turn of the colour wheel [turns]")
    blur: float = Field(0.01, ge=0, le=0.1, description="Widest Gaussian, share of image height")
    noise: float = Field(0.02, ge=0, le=1, description="Largest deviation of noise; 1: full range")


@final
@dataclass(frozen=True)
class AppearanceDraw:
    """What was drawn for each image, [B] each; hue in turns, blur as a share of the height."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    blur: Tensor
    noise: Tensor


@final
class AppearanceAugmentation:
    """Changes the looks of a batch at once, each image by a draw of its own."""

    def __init__(self, config: AppearanceConfig | None = None) -> None:
        self.config = config or AppearanceConfig()

    def __call__(self, images_B3HW: Tensor, generator: torch.Generator) -> Tensor:
        """New images [B, 3, H, W] in [-1, 1]; at strength 0 the same, to the last bit.

        Raises:
            AugmentationError: the images have another shape.
        """
        return self.apply(images_B3HW, self.draw(len(images_B3HW), generator), generator)

    def draw(self, count: int, generator: torch.Generator) -> AppearanceDraw:
        """Draw the looks of `count` images."""
        config = self.config

        def around(centre: float, reach: float) -> Tensor:
            numbers = torch.rand(count, generator=generator, device=generator.device)
            return centre + config.strength * reach * (2 * numbers - 1)

        return AppearanceDraw(
            brightness=around(1.0, config.brightness),
            contrast=around(1.0, config.contrast),
            saturation=around(1.0, config.saturation),
            hue=around(0.0, config.hue),
            blur=around(0.0, config.blur).abs(),
            noise=around(0.0, config.noise).abs(),
        )

    def apply(
        self, images_B3HW: Tensor, draw: AppearanceDraw, generator: torch.Generator
    ) -> Tensor:
        """Give images the looks that were drawn; the same draw twice differs in its noise alone.

        Two frames of one transition share a draw: light does not change between them.

        Raises:
            AugmentationError: the images have another shape, or are smaller than the blur.
        """
        if images_B3HW.dim() != 4 or images_B3HW.shape[1] != 3:
            raise AugmentationError(
                f"images must be [B, 3, H, W], got shape {list(images_B3HW.shape)}"
            )
        if self.config.strength == 0:
            return images_B3HW
        looks = {name: _each(value, images_B3HW) for name, value in vars(draw).items()}
        x = (images_B3HW + 1) / 2
        x = adjust_brightness(x, looks["brightness"])
        x = adjust_contrast(x, looks["contrast"])
        x = adjust_saturation(x, looks["saturation"])
        x = turn_hue(x, looks["hue"])
        if self.config.blur:
            reach = self.config.strength * self.config.blur * x.shape[-2]
            x = gaussian_blur(x, looks["blur"] * x.shape[-2], math.ceil(3 * reach))
        noise = torch.randn(x.shape, generator=generator, device=generator.device)
        x = x + looks["noise"] * noise.to(x)
        return x.clamp(0, 1) * 2 - 1


def _each(value_B: Tensor, images_B3HW: Tensor) -> Tensor:
    """One number an image, shaped to multiply it: [B, 1, 1, 1]."""
    if value_B.shape != images_B3HW.shape[:1]:
        raise AugmentationError(
            f"{len(images_B3HW)} images need as many draws, got {list(value_B.shape)}"
        )
    return value_B.to(images_B3HW)[:, None, None, None]


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale images [B, 3, H, W] in [0, 1] by factors [B, 1, 1, 1]."""
    return (x * factor).clamp(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Pull images in [0, 1] towards (below 1) or away from their mean grey."""
    mean = _grey(x).mean((1, 2, 3), keepdim=True)
    return (factor * x + (1 - factor) * mean).clamp(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Pull images in [0, 1] towards (below 1) or away from their grey version."""
    return (factor * x + (1 - factor) * _grey(x)).clamp(0, 1)


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the colours of images in [0, 1] about the grey axis of HSV, by turns [B, 1, 1, 1]."""
    value, least = x.amax(1), x.amin(1)
    chroma = value - least
    safe = torch.where(chroma == 0, 1.0, chroma)
    r, g, b = x.unbind(1)
    # The hue in sixths of a turn, counted from red.
    hue = torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    hue = torch.where(value == r, (g - b) / safe, hue) + 6 * turns[:, 0]
    offsets = torch.tensor([5.0, 3.0, 1.0], dtype=x.dtype, device=x.device)
    k = (offsets[:, None, None] + hue[:, None]).remainder(6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def gaussian_blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur images [B, 3, H, W] by Gaussians of deviations [B, 1, 1, 1] in pixels, edges mirrored.

    Raises:
        AugmentationError: an image does not have more than `radius` rows and columns.
    """
    rows, columns = x.shape[-2:]
    if radius >= min(rows, columns):
        raise AugmentationError(
            f"a blur of radius {radius} needs larger images than {rows} x {columns}"
        )
    at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-0.5 * (at / sigma.clamp_min(1e-3)) ** 2)
    taps = (weights / weights.sum(-1, keepdim=True)).unbind(-1)
    # A sum of shifted images: on a CPU far faster than a convolution in B * 3 groups.
    for axis, size in ((-2, rows), (-1, columns)):
        margin = (0, 0, radius, radius) if axis == -2 else (radius, radius, 0, 0)
        padded = F.pad(x, margin, mode="reflect")
        x = torch.zeros_like(x)
        for shift, tap in enumerate(taps):
            x = torch.addcmul(x, tap[..., None], padded.narrow(axis, shift, size))
    return x


def _grey(x: Tensor) -> Tensor:
    """Luma of images: [B, 1, H, W]."""
    weights = torch.tensor(_LUMA, dtype=x.dtype, device=x.device)
    return (x * weights[:, None, None]).sum(1, keepdim=True)
