"""norm_stats.json: how the numbers and images of a published checkpoint were made.

A model directory that has this file normalises by statistics of the data that the checkpoint was
trained on. One that has not, normalises by the limits that the robot declares.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from selfalign.errors import ModelError
from selfalign.model.config import wrong_fields

NORM_STATS = "norm_stats.json"
Method = Literal["z_score", "quantile", "quantile10", "min_max", "identity"]
Numbers = tuple[FiniteFloat, ...]

# The two lists that a method reads: centre and spread, or lower and upper end.
_LISTS: dict[Method, tuple[str, str]] = {
    "z_score": ("mean", "std"),
    "quantile": ("q01", "q99"),
    "quantile10": ("q10", "q90"),
    "min_max": ("min", "max"),
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Statistics(_Frozen):
    """How one vector is normalised. Lists have one number a dimension of the robot, or more."""

    method: Method
    mean: Numbers | None = None
    std: Numbers | None = None
    q01: Numbers | None = None
    q99: Numbers | None = None
    q10: Numbers | None = None
    q90: Numbers | None = None
    min: Numbers | None = None
    max: Numbers | None = None

    @model_validator(mode="after")
    def _method_has_its_lists(self) -> Self:
        if self.method == "identity":
            return self
        first, second = _LISTS[self.method]
        one, two = getattr(self, first), getattr(self, second)
        if one is None or two is None:
            raise ValueError(f"method {self.method} needs the lists {first} and {second}")
        if len(one) != len(two) or not one:
            raise ValueError(f"{first} has {len(one)} numbers and {second} has {len(two)}")
        low = [0.0] * len(two) if self.method == "z_score" else one
        wrong = [i for i, (a, b) in enumerate(zip(low, two, strict=True)) if a > b]
        if wrong:
            raise ValueError(f"{second}[{wrong[0]}] is {two[wrong[0]]}, below {low[wrong[0]]}")
        return self

    @property
    def lists(self) -> tuple[Numbers, Numbers]:
        """Centre and spread, or lower and upper end. Empty for the identity."""
        if self.method == "identity":
            return (), ()
        first, second = _LISTS[self.method]
        return getattr(self, first), getattr(self, second)


class Processing(_Frozen):
    """What happens to the numbers, images and prompts of a checkpoint, outside the network."""

    source: Literal["openpi", "lerobot"] = Field(description="Whose rounding and prompts")
    state: Statistics
    action: Statistics
    delta_actions: tuple[bool, ...] | None = Field(
        None, description="True: the action is relative to the state at the start of its chunk"
    )
    image_resize: Literal["pil", "torch"] = Field(
        "pil", description="openpi resizes bytes with PIL, LeRobot floats with torch"
    )
    state_in_prompt: bool | None = Field(None, description="None: in pi0.5 yes, in pi0 no")

    def identity(self) -> str:
        """What counts for the identity of a model, as JSON: fields not at their default."""
        return self.model_dump_json(exclude_defaults=True)

    def save(self, path: Path) -> None:
        """Write the file as JSON, without what is not set."""
        text = self.model_dump_json(indent=2, exclude_none=True)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file. Raises ModelError that names each wrong field."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ModelError(f"{path} is no normalisation: {error}") from None
        except ValidationError as error:
            raise ModelError(f"{path} is no normalisation: {wrong_fields(error)}") from None

    @classmethod
    def of_directory(cls, directory: Path) -> Self | None:
        """What a model directory says; None where it has no such file."""
        path = directory / NORM_STATS
        return cls.load(path) if path.is_file() else None
