"""Stage 1 as data: what is recorded, how the prefix is trained, how the inner loop runs."""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfalign.align.aligner import AlignmentConfig
from selfalign.align.augment_appearance import AppearanceConfig
from selfalign.align.augment_embodiment import EmbodimentAugmentationConfig
from selfalign.align.contrastive import ContrastiveConfig
from selfalign.errors import ModelError
from selfalign.model.config import ModelConfig, wrong_fields
from selfalign.pretrain.geometries import GEOMETRIES


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordConfig(_Frozen):
    """What is recorded once. A group is one arm under one camera: play, then demonstrations."""

    arms: dict[str, float] = Field(
        {"panda": 1.0},
        description="Arms and their shares; `procedural` is another random arm in every group",
    )
    tasks: dict[str, float] = Field({"reach": 1.0}, description="Tasks of the demonstrations")
    groups: int = Field(600, ge=2, le=10_000)
    held_out_groups: int = Field(40, ge=1, description="The last groups, never trained on")
    play_episodes: int = Field(2, ge=1)
    play_steps: int = Field(64, ge=8)
    demos: int = Field(5, ge=1)
    demo_noise: float = Field(0.5, ge=0, description="Disturbance in every second demonstration")
    frames: int = Field(60_000, ge=0, description="Single random frames for vision")
    frame_arms: int = Field(4000, ge=1, description="Procedural arms among the single frames")
    azimuth_deg: tuple[float, float] = (-60.0, 60.0)
    azimuth_gap_deg: tuple[float, float] | None = Field(
        None, description="Azimuths inside that range which are left out"
    )
    seed: int = Field(0, ge=0, lt=100, description="Another one records other arms, too")


class PrefixConfig(_Frozen):
    """Pretraining of vision tower and prefix, on key points."""

    iterations: int = Field(12_000, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup: float = Field(0.03, ge=0, lt=1)
    queries: int = Field(3, ge=1)
    bfloat16: bool = True
    with_init: bool = Field(False, description="Train the prefix of `init` on; else it stays")
    appearance: AppearanceConfig = Field(AppearanceConfig(), description="Other looks of frames")
    appearance_share: float = Field(0.5, ge=0, le=1, description="Frames seen in other looks")


class ContrastiveTrainingConfig(ContrastiveConfig):
    """The contrastive loss and its views, for some slots of every iteration."""

    slots: int = Field(4, ge=1, description="Slots of an iteration that it is computed for")
    gradient_clip: float = Field(
        0.5, gt=0, description="Largest norm of its gradient, before the sum of all is clipped"
    )
    appearance: AppearanceConfig = AppearanceConfig()
    renumbering: EmbodimentAugmentationConfig = EmbodimentAugmentationConfig()


class Stage1Config(_Frozen):
    """The persistent inner loop. Defaults are those of the measured recipe (design, section 7)."""

    iterations: int = Field(8000, ge=1)
    slots: int = Field(64, ge=1)
    slots_per_iteration: int = Field(24, ge=1)
    transitions: int = Field(16, ge=1, description="Play transitions of a slot in one iteration")
    demo_frames: int = Field(16, ge=1, description="Demonstration frames of a slot")
    hindsight: float = Field(
        0.0, ge=0, lt=1, description="Share of the demonstration frames that is labelled play"
    )
    hindsight_colours: int = Field(
        2, ge=1, le=3, description="Cubes a frame of play is labelled for"
    )
    lifetime: float = Field(150.0, gt=1, description="Mean visits of a slot before it is redrawn")
    shared_groups: float = Field(0.8, ge=0, lt=1, description="Slots that share another's camera")
    canonical_start: float = Field(0.6, ge=0, le=1)
    canonical_end: float = Field(0.15, ge=0, le=1)
    canonical_until: float = Field(0.6, gt=0, le=1, description="Share of training it falls over")
    families: dict[str, float] = Field(
        {"tool_rotated": 0.7, "joint_permuted": 0.3}, description="Spaces that are not canonical"
    )
    canonical_families: dict[str, float] = {"tool_canonical": 0.7, "joint_canonical": 0.3}
    embodiments: int | None = Field(
        None, ge=1, description="Different embodiments to draw from; None: no end of them"
    )
    gate_closed: bool = Field(
        False, description="TTT layers switched off for good: behaviour cloning without any W"
    )
    other_limits: float = Field(
        0.0, ge=0, le=1, description="Embodiments whose joint limits are declared at random"
    )
    arm_families: dict[str, dict[str, float]] = Field(
        {}, description="By kind of arm: spaces that are not canonical, instead of `families`"
    )
    arm_limits: dict[str, float] = Field(
        {}, description="By kind of arm: share of random limits, instead of `other_limits`"
    )
    arm_shares: dict[str, float] = Field(
        {}, description="By kind of arm: share of embodiments [that of the recorded groups]"
    )
    support: float = Field(
        0.5, gt=0, lt=1, description="Share of a group's play that W is aligned on; the rest judges"
    )
    learning_rate: float = Field(1e-3, gt=0)
    optimiser: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the matrices of the experts' layers; AdamW for the rest"
    )
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of a running mean of the trained weights, which is what is saved and "
        "evaluated; 0: the last weights",
    )
    action_weight: float = Field(1.0, ge=0)
    most_weight: float = Field(
        1.0,
        ge=1,
        description="An embodiment's action error may be weighted so much more or less, to make "
        "errors of equal motion equal in spaces of wide and narrow limits [1: never]",
    )
    compile: bool = Field(False, description="Minutes at first, then 1.7x faster [on CPU]")
    accumulate: int = Field(
        1, ge=1, description="Micro-batches that the slots of an iteration are cut into"
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute the experts' layers twice, to keep less of them in memory"
    )
    bfloat16: bool = Field(
        False, description="Autocast of the trunk; weights, W and their steps stay float32"
    )
    read_ahead: bool = Field(True, description="A thread reads the next micro-batch meanwhile")
    inner: AlignmentConfig = AlignmentConfig()
    lambda_contrastive: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Weight of the contrastive loss; 0: off"
    )
    contrastive: ContrastiveTrainingConfig = ContrastiveTrainingConfig()

    @model_validator(mode="after")
    def _slots_suffice(self) -> Self:
        chosen = self.slots_per_iteration
        if chosen > self.slots:
            raise ValueError(f"slots_per_iteration {chosen} must be at most slots {self.slots}")
        if self.accumulate > chosen:
            raise ValueError(
                f"accumulate {self.accumulate} must be at most slots_per_iteration {chosen}"
            )
        return self


class PretrainConfig(_Frozen):
    """One stage-1 run."""

    name: str
    model: ModelConfig
    init: str | None = Field(None, description="Model that training starts from: directory or id")
    init_sha256: str | None = Field(None, description="Identity of that model; the run fills it in")
    data: str | None = Field(None, description="LeRobotDataset instead of the simulator's play")
    spec: str | None = Field(None, description="Robot spec of the dataset; derived where unset")
    record: RecordConfig = RecordConfig()
    prefix: PrefixConfig = PrefixConfig()
    stage1: Stage1Config = Stage1Config()
    seed: int = 0
    threads: int = Field(1, ge=1)
    log_every: int = Field(50, ge=1)
    evaluate_every: int = Field(500, ge=1)
    evaluate_on: int = Field(8, ge=1, description="Held-out embodiments of each family")
    checkpoint_every: int = Field(500, ge=1)

    @model_validator(mode="after")
    def _data_has_a_trained_prefix(self) -> Self:
        if self.data and not self.init:
            raise ValueError("data needs init: a dataset has no key points to train vision on")
        return self

    @model_validator(mode="after")
    def _other_limits_are_possible(self) -> Self:
        if (self.stage1.other_limits or self.stage1.arm_limits) and (
            self.data or self.model.flavour == "pi05"
        ):
            raise ValueError(
                "stage1.other_limits needs the simulator's play and a model of flavour pi0: a "
                "dataset states its limits, and pi05 reads states in the cached prefix"
            )
        return self

    @classmethod
    def load(cls, path: Path, **start: Any) -> Self:
        """Read a TOML file; `model = "tiny"` names a geometry. Raises ModelError with the field.

        What `start` says of init, data and spec is added, and of model where the file has none.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
            data = {"model": start.pop("model", None), **data, **start}
            if data["model"] is None:
                raise ModelError(f"{path} names no model: it takes that of --init; give --init")
            if "data" in start and not data.get("init"):
                raise ModelError("a dataset trains a model that can see already: give --init")
            if isinstance(data.get("model"), str):
                data["model"] = _geometry(path, data["model"]).model_dump()
            return cls.model_validate(data)
        except FileNotFoundError:
            raise ModelError(f"{path} does not exist") from None
        except tomllib.TOMLDecodeError as error:
            raise ModelError(f"{path} is not a pretraining configuration: {error}") from None
        except ValidationError as error:
            raise ModelError(
                f"{path} is not a pretraining configuration: {wrong_fields(error)}"
            ) from None


def _geometry(path: Path, name: str) -> ModelConfig:
    if name not in GEOMETRIES:
        raise ModelError(f"{path}: model {name!r} is not one of {', '.join(GEOMETRIES)}")
    return GEOMETRIES[name]()
