"""What ablations change, as data: an axis is a question, a variant some fields set otherwise.

A new axis is an entry of AXES. Fields are named by dots, as `stage1.inner.lambda_dynamics` of
PretrainConfig and `alignment.lambda_dynamics` of the evaluation's Settings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar, final

from pydantic import BaseModel, ValidationError

from selfalign.align.losses import NAMES
from selfalign.errors import SelfAlignError
from selfalign.model.config import wrong_fields
from selfalign.pretrain.config import PretrainConfig

M = TypeVar("M", bound=BaseModel)
# A value, or how it follows from the configuration that is varied.
Value = object | Callable[[PretrainConfig], object]
Adapts = Literal["play", "global", "per_sample", "never"]


class UnknownVariant(SelfAlignError):
    """There is no axis or variant of that name."""


class UnavailableVariant(SelfAlignError):
    """A variant cannot be run here; the message says what it needs."""


@final
@dataclass(frozen=True)
class Variant:
    """One column of an ablation.

    `adapts` says how W comes about at stage 2: from the robot's own play, from the pooled play of
    several robots, from each episode alone while it runs, or not at all. `needs_training` is False
    where the variant means something for a model that is trained already.
    """

    name: str
    title: str
    training: Mapping[str, Value] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    adapts: Adapts = "play"
    needs_training: bool = True


@final
@dataclass(frozen=True)
class Axis:
    """A question and the variants that answer it."""

    name: str
    title: str
    variants: tuple[Variant, ...]


def _losses(*on: str) -> tuple[dict[str, Value], dict[str, object]]:
    """The same losses at both stages."""
    weights: dict[str, object] = {f"lambda_{name}": float(name in on) for name in NAMES}
    return (
        {f"stage1.inner.{key}": value for key, value in weights.items()},
        {f"alignment.{key}": value for key, value in weights.items()},
    )


def _with_losses(name: str, title: str, *on: str) -> Variant:
    return Variant(name, title, *_losses(*on), needs_training=False)


def _each(path: str, prefix: str, values: Sequence[object]) -> tuple[Variant, ...]:
    """One variant for each value of one field of the training."""
    return tuple(Variant(f"{prefix}_{v}", f"{prefix} {v}", {path: v}) for v in values)


def _layers(first: float, last: float) -> Callable[[PretrainConfig], object]:
    """Layers of the action expert between two shares of its depth."""

    def chosen(config: PretrainConfig) -> object:
        depth = config.model.action.depth
        return tuple(range(int(first * depth), int(last * depth)))

    return chosen


_ALL = _losses(*NAMES)
_NO_LOSS, _NO_LOSS_AT_STAGE_2 = _losses()

AXES: Final[dict[str, Axis]] = {
    axis.name: axis
    for axis in (
        Axis(
            "losses",
            "Which alignment losses are on",
            (
                Variant(
                    "baseline",
                    "baseline",
                    _NO_LOSS,
                    _NO_LOSS_AT_STAGE_2,
                    adapts="never",
                    needs_training=False,
                ),
                _with_losses("inverse_dynamics", "+ inverse dynamics", "inverse_dynamics"),
                _with_losses("dynamics", "+ dynamics", "dynamics"),
                _with_losses("perception", "+ perception", "perception"),
                _with_losses("all", "+ all", *NAMES),
                Variant(
                    "contrastive",
                    "+ contrastive",
                    {**_ALL[0], "stage1.lambda_contrastive": 0.1},
                    _ALL[1],
                ),
            ),
        ),
        Axis(
            "depth",
            "Depth of the alignment expert",
            (
                *_each("model.alignment.depth", "depth", (1, 2, 4)),
                Variant(
                    "depth_all",
                    "as deep as the action expert",
                    {"model.alignment.depth": lambda config: config.model.action.depth},
                ),
            ),
        ),
        Axis(
            "ttt",
            "Layers of the action expert that carry W",
            (
                Variant("early", "first half", {"model.ttt.layers": _layers(0, 0.5)}),
                Variant("late", "second half", {"model.ttt.layers": _layers(0.5, 1)}),
                Variant("all", "all", {"model.ttt.layers": "all"}),
            ),
        ),
        Axis(
            "inner_step",
            "Inner KV-reconstruction step of the TTT layers",
            (
                Variant("off", "off", {"model.ttt.inner_step": False}),
                Variant("on", "on", {"model.ttt.inner_step": True}),
            ),
        ),
        Axis(
            "w",
            "Whose W it is",
            (
                Variant(
                    "none",
                    "no W (behaviour cloning)",
                    {**_NO_LOSS, "stage1.gate_closed": True},
                    adapts="never",
                ),
                Variant("global", "one for 9 robots", adapts="global", needs_training=False),
                Variant("embodiment", "one each robot", needs_training=False),
                Variant("sample", "one each episode", adapts="per_sample", needs_training=False),
            ),
        ),
        Axis(
            "embodiments",
            "Number of training embodiments",
            (
                *_each("stage1.embodiments", "embodiments", (8, 32, 128, 512)),
                Variant("embodiments_endless", "no end of them", {"stage1.embodiments": None}),
            ),
        ),
        Axis(
            "stride",
            "Control steps from one observation of a transition to the other",
            _each("model.stride", "stride", (1, 2, 4)),
        ),
        Axis(
            "lifetime",
            "Mean visits of a slot before it starts again from W0",
            _each("stage1.lifetime", "lifetime", (3.0, 10.0, 30.0, 100.0)),
        ),
    )
}


def chosen(axis: str, names: Sequence[str] | None = None) -> tuple[Variant, ...]:
    """Some variants of an axis, or all, in the order of the table.

    Raises:
        UnknownVariant: no such axis, or no such variant on it.
    """
    if axis not in AXES:
        raise UnknownVariant(f"no axis is called {axis!r}; known: {', '.join(AXES)}")
    variants = AXES[axis].variants
    if names is None:
        return variants
    known = [variant.name for variant in variants]
    for name in names:
        if name not in known:
            raise UnknownVariant(
                f"no variant of axis {axis!r} is called {name!r}; known: {', '.join(known)}"
            )
    return tuple(variant for variant in variants if variant.name in names)


def override(model: M, fields: Mapping[str, object], variant: str) -> M:
    """A copy of a configuration with some fields, named by dots, set otherwise.

    Raises:
        UnavailableVariant: there is no such field, or its value does not fit the others.
    """
    data = model.model_dump()
    for path, value in fields.items():
        node = data
        *parents, last = path.split(".")
        for name in parents:
            node = node.get(name, {})
        if last not in node:
            raise UnavailableVariant(
                f"variant {variant!r} sets {path}, which {type(model).__name__} of this version "
                "does not have; leave the variant out with --variants"
            )
        node[last] = value
    try:
        return type(model).model_validate(data)
    except ValidationError as error:
        raise UnavailableVariant(f"variant {variant!r}: {wrong_fields(error)}") from None


def training_of(variant: Variant, config: PretrainConfig) -> PretrainConfig:
    """The stage-1 run of a variant. Raises UnavailableVariant."""
    values = {
        path: value(config) if callable(value) else value
        for path, value in variant.training.items()
    }
    return override(config, values, variant.name)


def describe() -> str:
    """All axes and variants as text, for `selfalign ablate --list`."""
    lines = []
    for axis in AXES.values():
        lines.append(f"{axis.name}: {axis.title}")
        for variant in axis.variants:
            mark = "" if variant.needs_training else "  (also with --stage2-only)"
            lines.append(f"  {variant.name:<20} {variant.title}{mark}")
    return "\n".join(lines)
