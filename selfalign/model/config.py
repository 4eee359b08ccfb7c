"""The geometry of a policy: everything that decides which tensors it has and how it is run."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfalign.errors import ModelError
from selfalign.model import flow


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VisionConfig(_Frozen):
    """SigLIP tower. `token_merge` joins squares of patches into one token (1: none, as pi0)."""

    image_size: int = Field(ge=8, description="Side of the square input image [pixel]")
    patch_size: int = Field(ge=1, description="Side of a patch [pixel]")
    width: int = Field(ge=8)
    depth: int = Field(ge=1)
    heads: int = Field(ge=1)
    mlp_dim: int = Field(ge=8)
    token_merge: int = Field(1, ge=1)
    readout: Literal["linear", "mean"] = Field(
        "linear", description="Feature of a picture: a linear map of its tokens, or their mean"
    )

    @model_validator(mode="after")
    def _patches_fill_the_image(self) -> Self:
        side = self.patch_size * self.token_merge
        if self.image_size % side:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch x merge {side}")
        return self

    @property
    def tokens(self) -> int:
        """Image tokens that one camera contributes to the prefix."""
        return (self.image_size // self.patch_size // self.token_merge) ** 2

    @property
    def token_width(self) -> int:
        """Numbers in one merged image token, before the projector."""
        return self.width * self.token_merge**2


class StackConfig(_Frozen):
    """A stack of Gemma blocks. Heads must agree between the stacks that attend to one another."""

    width: int = Field(ge=8)
    depth: int = Field(ge=1)
    mlp_dim: int = Field(ge=8)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=2)


class TTTConfig(_Frozen):
    """Where the fast weights sit and how they are used."""

    layers: Literal["all"] | tuple[int, ...] = "all"
    heads: int = Field(ge=1)
    gate_init: float = Field(0.5, description="Gate before tanh; 0 leaves a checkpoint unchanged")
    inner_step: bool = Field(False, description="One KV-reconstruction step over the tokens first")
    inner_rate: float = Field(1.0, gt=0)
    w_std: float = Field(0.02, gt=0, description="Spread of W0 at the start of stage 1")


class ModelConfig(_Frozen):
    """One policy. `variant` is its name only; nothing in the code depends on it."""

    variant: str
    flavour: Literal["pi0", "pi05"] = "pi0"
    vision: VisionConfig
    language: StackConfig
    action: StackConfig
    alignment: StackConfig
    ttt: TTTConfig
    max_cameras: int = Field(3, ge=1)
    cameras: tuple[str, ...] = Field(
        (), description="Names of the cameras in the order of training; empty: any names"
    )
    state_dim: int = Field(32, ge=1)
    action_dim: int = Field(32, ge=1)
    horizon: int = Field(ge=1, description="Commands in a chunk (H)")
    stride: int = Field(1, ge=1, description="Steps between the two observations of a transition")
    flow_steps: int = Field(10, ge=1, description="Euler steps of the sampler")
    flow_clock: Literal["even", "summed"] = Field(
        "even", description="Times of these steps: 1 - i / steps, or summed up in float32 (openpi)"
    )
    flow_target: Literal["velocity", "clean"] = Field(
        "velocity", description="What action_out_proj predicts: noise - action, or the action"
    )
    attached: bool = Field(
        True, description="False: a converted policy, still without TTT and alignment expert"
    )
    trained_delay: int = Field(
        0,
        ge=0,
        description="Longest frozen start of a chunk that training has shown (model/rtc.py)",
    )
    vocab_size: int = Field(ge=8)
    max_prompt_tokens: int = Field(ge=2)
    feature_dim: int = Field(ge=1, description="Numbers in the vision feature of one camera")
    state_scale: float = Field(1.0, gt=0, description="Perception targets are divided by it")
    action_scale: float = Field(1.0, gt=0, description="Inverse-dynamics targets are divided by it")
    min_period: float = Field(4e-3, gt=0)
    max_period: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _stacks_fit(self) -> Self:
        for key in ("depth", "heads", "kv_heads", "head_dim"):
            prefix, action = getattr(self.language, key), getattr(self.action, key)
            if prefix != action:
                raise ValueError(f"language.{key} {prefix} and action.{key} {action} must be equal")
        if self.action.width % self.ttt.heads:
            raise ValueError(
                f"action.width {self.action.width} is no multiple of ttt.heads {self.ttt.heads}"
            )
        if len(set(self.cameras)) != len(self.cameras) or len(self.cameras) > self.max_cameras:
            raise ValueError(
                f"cameras {list(self.cameras)} must be at most {self.max_cameras} (max_cameras) "
                "names, each once"
            )
        if self.trained_delay >= self.horizon:
            raise ValueError(
                f"trained_delay {self.trained_delay} must be below horizon {self.horizon}"
            )
        if self.alignment.width != self.action.width:
            raise ValueError("alignment.width must equal action.width: it reads the action expert")
        if self.vision.readout == "mean" and self.feature_dim != self.vision.token_width:
            raise ValueError(
                f"feature_dim {self.feature_dim} must be {self.vision.token_width}, the width of "
                "an image token, whose mean it is"
            )
        bad = [i for i in self.ttt_layers if not 0 <= i < self.action.depth]
        if bad or len(set(self.ttt_layers)) != len(self.ttt_layers):
            raise ValueError(
                f"ttt.layers {self.ttt.layers} are not layers 0..{self.action.depth - 1}"
            )
        return self

    @property
    def flow_times(self) -> list[float]:
        """The times at which the sampler evaluates the network, from 1 downwards."""
        return flow.times(self.flow_steps, self.flow_clock)

    @property
    def ttt_layers(self) -> tuple[int, ...]:
        """Indices of the action-expert layers that carry fast weights."""
        return tuple(range(self.action.depth)) if self.ttt.layers == "all" else self.ttt.layers

    @property
    def ttt_head_dim(self) -> int:
        """Side d of one head's W1."""
        return self.action.width // self.ttt.heads

    def identity(self) -> str:
        """What counts for the identity of a frozen model, as JSON.

        A field that a later version added does not count at its default: it would refuse the
        stored W of every model made before.
        """
        new: dict[str, Any] = {"attached": True}
        if self.trained_delay == 0:
            new["trained_delay"] = True
        if not self.cameras:
            new["cameras"] = True
        if self.flow_clock == "even":
            new["flow_clock"] = True
        if self.vision.readout == "linear":
            new["vision"] = {"readout"}
        return self.model_dump_json(exclude=new)

    def save(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a configuration. Raises ModelError that names the field."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(
                f"{path} does not exist; a model directory has a config.json"
            ) from None
        except UnicodeDecodeError as error:
            raise ModelError(f"{path} is not a model configuration: {error}") from None
        except ValidationError as error:
            raise ModelError(
                f"{path} is not a model configuration: {wrong_fields(error)}"
            ) from None


def wrong_fields(error: ValidationError) -> str:
    """One line that names every wrong field of a configuration, and why it is wrong."""
    parts = []
    for detail in error.errors(include_url=False):
        where = ".".join(map(str, detail["loc"])) or "the file"
        parts.append(f"{where}: {detail['msg']}")
    return "; ".join(parts)


def _gemma(
    width: int, depth: int, mlp_dim: int, heads: int, kv_heads: int, dim: int
) -> StackConfig:
    return StackConfig(
        width=width, depth=depth, mlp_dim=mlp_dim, heads=heads, kv_heads=kv_heads, head_dim=dim
    )


def dummy_config(flavour: Literal["pi0", "pi05"] = "pi0") -> ModelConfig:
    """The smallest policy: for tests, runs in a millisecond."""
    return ModelConfig(
        variant="dummy",
        flavour=flavour,
        vision=VisionConfig(
            image_size=32, patch_size=8, width=16, depth=1, heads=2, mlp_dim=32, token_merge=2
        ),
        language=_gemma(16, 2, 32, 2, 1, 8),
        action=_gemma(16, 2, 32, 2, 1, 8),
        alignment=_gemma(16, 1, 32, 2, 1, 8),
        ttt=TTTConfig(heads=2),
        max_cameras=3,
        horizon=4,
        stride=2,
        flow_steps=2,
        flow_target="clean",
        vocab_size=512,
        max_prompt_tokens=48 if flavour == "pi05" else 12,
        feature_dim=6,
    )


def tiny_config() -> ModelConfig:
    """The small policy that ships: a few million parameters, one 96x96 camera, trained on CPU."""
    return ModelConfig(
        variant="tiny",
        flavour="pi0",
        vision=VisionConfig(
            image_size=96, patch_size=12, width=96, depth=4, heads=4, mlp_dim=256, token_merge=2
        ),
        language=_gemma(96, 4, 192, 4, 2, 32),
        action=_gemma(64, 4, 192, 4, 2, 32),
        alignment=_gemma(64, 2, 192, 4, 2, 16),
        ttt=TTTConfig(heads=4),
        max_cameras=2,
        horizon=4,
        stride=2,
        flow_steps=4,
        flow_target="clean",
        vocab_size=512,
        max_prompt_tokens=12,
        feature_dim=27,
        state_scale=0.2,
        action_scale=0.5,
    )


def pi0_config(*, depth: int = 18, vision_depth: int = 27, alignment_depth: int = 4) -> ModelConfig:
    """Full-size pi0, as openpi publishes it. Smaller depths are for tests and benchmarks.

    Args:
        depth: Layers of the language model and of the action expert.
        vision_depth: Layers of the vision tower.
        alignment_depth: Layers of the alignment expert: 4, 6, 8 or 18 in the plan.
    """
    return _published("pi0", depth, vision_depth, alignment_depth)


def pi05_config(
    *, depth: int = 18, vision_depth: int = 27, alignment_depth: int = 4
) -> ModelConfig:
    """Full-size pi0.5, as openpi publishes it; the arguments are those of `pi0_config`."""
    return _published("pi05", depth, vision_depth, alignment_depth)


def gemma_variant(name: str) -> StackConfig:
    """The geometry that openpi and LeRobot call by this name. Raises ModelError for others."""
    variants = {
        "gemma_2b": _gemma(2048, 18, 16384, 8, 1, 256),
        "gemma_300m": _gemma(1024, 18, 4096, 8, 1, 256),
        "dummy": _gemma(64, 4, 128, 8, 1, 16),
    }
    if name not in variants:
        raise ModelError(f"the variant {name!r} is not one of {', '.join(variants)}")
    return variants[name]


def _published(
    flavour: Literal["pi0", "pi05"], depth: int, vision_depth: int, alignment_depth: int
) -> ModelConfig:
    vision = VisionConfig(
        image_size=224,
        patch_size=14,
        width=1152,
        depth=vision_depth,
        heads=16,
        mlp_dim=4304,
        readout="mean",
    )
    expert = gemma_variant("gemma_300m")
    return ModelConfig(
        variant=flavour,
        flavour=flavour,
        vision=vision,
        language=gemma_variant("gemma_2b").model_copy(update={"depth": depth}),
        action=expert.model_copy(update={"depth": depth}),
        alignment=expert.model_copy(update={"depth": alignment_depth}),
        ttt=TTTConfig(heads=8, gate_init=0.0),
        max_cameras=3,
        horizon=50,
        flow_steps=10,
        flow_target="velocity",
        vocab_size=257152,
        max_prompt_tokens=200 if flavour == "pi05" else 48,
        feature_dim=vision.token_width,
    )
