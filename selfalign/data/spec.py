"""Robot spec: the declared inputs and outputs of one robot.

A spec says which cameras a robot has, what each number of its state and its action means, within
which limits, and how fast it is commanded. Limits are the only source of normalisation, so a
robot never seen before needs no statistics.
"""

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self, final

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from selfalign.data.kinematic_chain import KinematicChain
from selfalign.errors import SpecError

__all__ = ["Camera", "Dimension", "RobotSpec", "SpecError"]

MAX_SPEC_BYTES = 1 << 20

# Names become directory and Zarr node names, so they can hold no path.
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Label = Annotated[str, Field(min_length=1, max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@final
class Dimension(BaseModel):
    """One number of the state or of the action, in `unit`, declared to lie in [low, high]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Label = Field(description="What it is, for example joint_1 or delta_x")
    unit: str = Field(max_length=32, description="Unit, for example rad, m or 1")
    low: Finite = Field(description="Declared lower limit, mapped to -1")
    high: Finite = Field(description="Declared upper limit, mapped to +1")

    @model_validator(mode="after")
    def _limits_span_a_range(self) -> Self:
        # Compared as float32, the precision in which states and actions are stored.
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = np.float32(self.low), np.float32(self.high)
            if not (low < high and np.isfinite(high - low)):
                msg = (
                    f"low ({self.low}) must be below high ({self.high}) for dimension "
                    f"{self.name!r}, and both must fit in float32"
                )
                raise ValueError(msg)
        return self


@final
class Camera(BaseModel):
    """One colour camera; its images are `[height, width, 3]` uint8 RGB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Identifier
    height: int = Field(ge=1, le=4096, description="Rows [pixel]")
    width: int = Field(ge=1, le=4096, description="Columns [pixel]")

    @field_validator("name")
    @classmethod
    def _name_can_be_an_array(cls, name: str) -> str:
        if name == "zarr.json":
            msg = "'zarr.json' is the name of Zarr's metadata; give the camera another one"
            raise ValueError(msg)
        return name


@final
class RobotSpec(BaseModel):
    """The declared inputs and outputs of one robot. Immutable; `digest` identifies its content.

    How many cameras and dimensions a policy can take is the policy's limit and is checked where
    observations are encoded for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Identifier
    rate_hz: Annotated[Positive, Field(le=1000.0)] = Field(description="Command rate [Hz]")
    cameras: tuple[Camera, ...] = Field(min_length=1, max_length=16)
    state: tuple[Dimension, ...] = Field(min_length=1, max_length=256)
    action: tuple[Dimension, ...] = Field(min_length=1, max_length=256)
    max_step: tuple[Positive | None, ...] | None = Field(
        None,
        description="Largest change of each action between consecutive commands, in its unit; "
        "null where it is not limited (delta actions)",
    )
    targets: tuple[Label, ...] = Field(
        (),
        description="Names of the actions that are absolute targets (a tool position, a joint "
        "angle): the policy sees their change since the last command, in units of max_step",
    )
    default_instruction: str = Field("", max_length=1024)
    kinematics: KinematicChain | None = Field(
        None, description="The arm as a serial chain; its joints are numbers of the state"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for field in ("cameras", "state", "action"):
            names = [item.name for item in getattr(self, field)]
            repeated = _repeated(names)
            if repeated:
                msg = f"names in {field} must be unique, but {repeated[0]!r} appears twice"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _max_step_matches_action(self) -> Self:
        if self.max_step is not None and len(self.max_step) != len(self.action):
            msg = (
                f"max_step has {len(self.max_step)} entries, but action has {len(self.action)} "
                "dimensions; give one entry a dimension (null = not limited)"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _targets_are_actions_with_a_step(self) -> Self:
        names = [dimension.name for dimension in self.action]
        repeated, unknown = _repeated(self.targets), set(self.targets) - set(names)
        if repeated or unknown:
            name = (repeated or sorted(unknown))[0]
            msg = (
                f"targets must be different actions, but {name!r} "
                f"{'appears twice' if repeated else 'is none of ' + ', '.join(names)}"
            )
            raise ValueError(msg)
        for name, step in zip(names, self.max_step or [None] * len(names), strict=True):
            if name in self.targets and step is None:
                msg = (
                    f"target {name!r} needs a max_step, but has none: the policy sees its change "
                    "since the last command in that unit; give the largest change of one command"
                )
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _chain_moves_what_is_measured(self) -> Self:
        if self.kinematics is None:
            return self
        chain = [joint.name for joint in self.kinematics.joints]
        repeated, missing = _repeated(chain), sorted(set(chain) - {d.name for d in self.state})
        if repeated or missing:
            msg = (
                f"the joints of kinematics must be different numbers of the state, but "
                f"{(repeated or missing)[0]!r} {'appears twice' if repeated else 'is none'}"
            )
            raise ValueError(msg)
        return self

    @classmethod
    def from_mapping(cls, data: object, *, source: str = "robot spec") -> Self:
        """Build a spec from parsed YAML, TOML or JSON.

        Raises:
            SpecError: naming each wrong field, its value and what was expected.
        """
        if not isinstance(data, dict):
            msg = f"{source}: expected a mapping with name, rate_hz, cameras, state and action"
            raise SpecError(f"{msg}, got {type(data).__name__}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise SpecError(f"{source}: {_explain(error)}") from error

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a spec from a `.yaml`, `.yml` or `.toml` file.

        Raises:
            SpecError: the file cannot be read or parsed, or describes no valid robot.
        """
        return cls.from_mapping(_parse(Path(path)), source=str(path))

    def to_yaml(self) -> str:
        """Return the spec as YAML that `from_file` reads back unchanged."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @property
    def digest(self) -> str:
        """The sha256 (hex) of the canonical JSON; fields at their default do not count."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def period_ns(self) -> int:
        """Time between two commands [ns]."""
        return round(1e9 / self.rate_hz)


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _parse(path: Path) -> object:
    if path.suffix not in {".yaml", ".yml", ".toml"}:
        raise SpecError(f"{path}: expected a .yaml, .yml or .toml file, got {path.suffix!r}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: cannot read the robot spec: {error.strerror}") from error
    if len(data) > MAX_SPEC_BYTES:
        raise SpecError(f"{path}: {len(data)} bytes, expected at most {MAX_SPEC_BYTES}")
    try:
        text = data.decode()
        return tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError, ValueError) as error:
        said = " ".join(str(error).split())
        raise SpecError(f"{path}: not valid {path.suffix[1:].upper()}: {said}") from error


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(step) for step in item["loc"]) or "spec"
        got = repr(item["input"])
        shown = "" if isinstance(item["input"], dict) else f" (got {got[:80]})"
        said = item["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
        if item["type"] == "extra_forbidden":
            said = _no_such_field(item["loc"])
        parts.append(f"{where}: {said}{shown}")
    return "; ".join(parts)


def _no_such_field(where: tuple[str | int, ...]) -> str:
    """What to say of a field that is none; one of the wrong level is told its own."""
    parts: dict[tuple[str | int, ...], type[BaseModel]] = {
        (): RobotSpec,
        ("cameras",): Camera,
        ("state",): Dimension,
        ("action",): Dimension,
    }
    model = parts.get(tuple(part for part in where[:-1] if isinstance(part, str)))
    if where[-1] == "max_step":
        return "max_step is one list for all actions, beside `action`: [0.1, null, ...]"
    there = f"; there are {', '.join(model.model_fields)}" if model else ""
    return f"there is no such field{there}"
