"""The model geometries that a training configuration may name."""

from collections.abc import Callable
from typing import Literal

from selfalign.model.config import (
    ModelConfig,
    dummy_config,
    pi0_config,
    pi05_config,
    tiny_config,
)


def micro_config(flavour: Literal["pi0", "pi05"] = "pi0") -> ModelConfig:
    """The dummy geometry for what recordings hold: 96 x 96 images and nine key points."""
    config = dummy_config(flavour)
    vision = config.vision.model_copy(update={"image_size": 96, "patch_size": 24})
    fields = {"variant": "micro", "vision": vision, "feature_dim": 27, "max_cameras": 1}
    return config.model_copy(update=fields)


GEOMETRIES: dict[str, Callable[[], ModelConfig]] = {
    "dummy": dummy_config,
    "micro": micro_config,
    "micro_pi05": lambda: micro_config("pi05"),
    "tiny": tiny_config,
    "pi0": pi0_config,
    "pi05": pi05_config,
}
