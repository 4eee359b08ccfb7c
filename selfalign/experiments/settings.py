"""How much of everything, and the digest that tells one result from another."""

import functools
import hashlib
import inspect
import json
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from selfalign.align import aligner, gates, holdout, losses
from selfalign.align.aligner import STEPS, AlignmentConfig
from selfalign.align.gates import GateConfig
from selfalign.experiments.cells import Cell
from selfalign.experiments.robots import Split

# To be raised when a change of this package alters results: what was cached before is left alone.
_VERSION: Final = 2


class OracleConfig(BaseModel):
    """How W is fitted with expert labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    demonstrations: int = Field(20, ge=1, description="Successful episodes of the scripted expert")
    noise: float = Field(0.5, ge=0, description="Disturbance in every second one")
    steps: int = Field(200, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(0.01, gt=0, description="At the start; falls to zero as a cosine")


class RivalConfig(BaseModel):
    """Fine-tuning on the alignment losses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    full_learning_rate: float = Field(1e-3, gt=0)
    lora_learning_rate: float = Field(1e-2, gt=0)
    lora_rank: int = Field(4, ge=1)


class Settings(BaseModel):
    """What is done with each robot. Two equal settings give equal results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split = "test"
    seed: int = Field(0, ge=0)
    episodes: int = Field(100, ge=1, description="Start states of a cell")
    robots: int = Field(20, ge=1, description="Robots of a cell that they are spread over")
    play_seconds: float = Field(13.0, gt=0)
    steps: int = Field(STEPS, ge=1, description="Alignment steps")
    methods: tuple[str, ...] = ("base", "aligned")
    execute: int | None = Field(None, ge=1, description="Actions of a chunk to execute; None: all")
    alignment: AlignmentConfig = AlignmentConfig()
    gates: GateConfig = GateConfig()
    oracle: OracleConfig = OracleConfig()
    rivals: RivalConfig = RivalConfig()
    early_steps: tuple[int, ...] = Field(
        (5, 10, 20, 35, 50, 75, 100), min_length=1, description="What method early_stop chooses of"
    )
    online_steps: int = Field(5, ge=1, description="Alignment steps a chunk, within an episode")
    bc_model: Path | None = Field(None, description="Model directory of method bc")

    def episodes_of(self, index: int) -> int:
        """Start states of the robot of that number: as even as can be."""
        return self.episodes // self.robots + (index < self.episodes % self.robots)


def digest(model: Path, cell: Cell, settings: Settings) -> str:
    """Name of the results of a cell: over the model's files, all settings and how W is aligned."""
    other = settings.bc_model
    parts = {
        "version": _VERSION,
        "model": model_sha256(model),
        "cell": cell.name,
        "placement": cell.placement,
        # Another model counts as what it is, not as where it lies.
        "settings": settings.model_dump(mode="json", exclude={"bc_model"}),
        "bc_model": None if other is None else model_sha256(other),
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> list[str]:
    """Limits and losses are code as much as settings. Read once: files may change meanwhile."""
    return [inspect.getsource(module) for module in (aligner, gates, holdout, losses)]


def model_sha256(model: Path) -> str:
    """Over weights (W0 too), configuration and statistics of a model directory."""
    found = hashlib.sha256()
    for name in ("config.json", "norm_stats.json", "model.safetensors"):
        if (model / name).is_file():
            with (model / name).open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
