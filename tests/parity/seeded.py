"""Weights and inputs that any process makes again from names: numpy's frozen generator, no files.

The fixture scripts run this file in environments of their own, so it imports numpy only.

Shape key: B batch, N cameras, S image side, t prompt tokens, H horizon, A action numbers.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Geometry:
    """A small model of the pi0 family. Eight heads: openpi's joint pass knows no other number."""

    image_size: int = 28
    patch_size: int = 14
    vision_width: int = 32
    vision_depth: int = 2
    vision_heads: int = 4
    vision_mlp: int = 48
    language_width: int = 48
    language_mlp: int = 96
    action_width: int = 32
    action_mlp: int = 64
    depth: int = 3
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 16
    vocab_size: int = 512
    prompt_tokens: int = 9
    action_dim: int = 7
    horizon: int = 5

    @property
    def image_tokens(self) -> int:
        """Prefix tokens of one camera."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class Inputs:
    """Four observations: all cameras, the last one missing, the first one missing, one only."""

    images: Array
    image_mask: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    token_mask: NDArray[np.bool_]
    state: Array
    noise: Array
    actions: Array
    time: Array


CAMERAS = (
    (True, True, True),
    (True, True, False),
    (False, True, True),
    (False, False, True),
)
TIMES = (1.0, 0.7, 0.35, 0.001)


def draw(name: str, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers that depend on nothing but the name and the shape."""
    generator = np.random.RandomState(zlib.crc32(name.encode()))  # its stream never changes
    return generator.standard_normal(shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> Array:
    """The weight that openpi calls `name`: of a size that keeps every activation about 1."""
    values = draw(name, shape)
    if len(shape) > 1:
        scale = float(np.prod(shape[1:])) ** -0.5
        return values * np.float32(0.5 * scale if "dense" in name else scale)
    centre = 1.0 if "layer_norm" in name and name.endswith("weight") else 0.0
    return np.float32(centre) + values * np.float32(0.2)


def inputs(geometry: Geometry) -> Inputs:
    """Prompts of 9, 4, 1 and 6 tokens, padded with zeros; images in [-1, 1]."""
    batch, side = len(CAMERAS), geometry.image_size
    lengths = np.array([geometry.prompt_tokens, 4, 1, 6])
    mask = np.arange(geometry.prompt_tokens) < lengths[:, None]
    words = np.random.RandomState(7).randint(2, geometry.vocab_size, mask.shape)
    chunk = (batch, geometry.horizon, geometry.action_dim)
    return Inputs(
        images=np.clip(draw("images", (batch, 3, 3, side, side)) * 0.5, -1, 1),
        image_mask=np.array(CAMERAS),
        tokens=np.where(mask, words, 0),
        token_mask=mask,
        state=draw("state", (batch, geometry.action_dim)),
        noise=draw("noise", chunk),
        actions=draw("actions", chunk) * np.float32(0.5),
        time=np.array(TIMES, np.float32),
    )
