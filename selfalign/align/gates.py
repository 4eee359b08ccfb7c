"""Gates: what a candidate W has to pass before it may act.

A gate never repairs: it says yes or no, with the value and the limit. Every comparison is written
so that NaN fails.

The held-out losses of the candidate and of the active W are compared transition by transition. A
difference counts if it is large, as a share, and stands out of the noise, in standard errors.
"""

import math
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Protocol, TypeVar, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from selfalign.model.weights import FastWeights

# Transitions in a row that count as one measurement: half a second of play at 10 Hz.
_STRETCH = 5
_FEWEST_STRETCHES = 4


@final
class GateConfig(BaseModel):
    """Limits of the gates. The defaults let a useful W pass, which changes actions a lot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_improvement: float = Field(
        0.02, ge=0, lt=1, description="Share by which the held-out total must fall"
    )
    min_improvement_errors: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="And by so many standard errors of its change"
    )
    max_single_increase: float = Field(
        0.50, ge=0, allow_inf_nan=False, description="Share by which one loss may rise"
    )
    max_increase_errors: float = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="Any loss may rise by so many standard errors of its change: this is noise",
    )
    max_small_increase: float = Field(
        0.01,
        ge=0,
        allow_inf_nan=False,
        description="Any loss may rise by this much: 1 is a prediction of the mean, this is noise",
    )
    exempt_losses: tuple[str, ...] = Field(
        (), description="Losses that may rise, since they were switched off: alignment/<loss>"
    )
    max_relative_delta: float = Field(
        100.0, gt=0, allow_inf_nan=False, description="Largest ||W - W0|| / ||W0||"
    )
    max_action_deviation: float = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="Largest mean change of an action on the anchors; the range of limits is 2",
    )
    action_range: float = Field(
        1.5, gt=0, allow_inf_nan=False, description="An action beyond this is far outside limits"
    )
    max_share_outside: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of actions beyond `action_range`, above that of the active W",
    )
    noise_seed: int = Field(0, ge=0, description="Both chunks are sampled from the same noise")


@final
@dataclass(frozen=True)
class GateCheck:
    """One question and its answer. `value` is NaN or infinite where the candidate made it so."""

    name: str
    passed: bool
    value: float
    limit: float
    message: str


@final
@dataclass(frozen=True)
class GateReport:
    """All checks that were made, in order. A candidate that is not finite gets no further ones."""

    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the failed checks say."""
        return tuple(check.message for check in self.checks if not check.passed)


class Losses(Protocol):
    """What the gates read of a report of the alignment losses."""

    @property
    def by_transition(self) -> Mapping[str, Tensor]:
        """Losses [B] by name: `total` and each single one, of transitions in order of time."""


PrefixT = TypeVar("PrefixT")
PrefixT_contra = TypeVar("PrefixT_contra", contravariant=True)


class Acting(Protocol[PrefixT_contra]):
    """What the gates ask of a policy."""

    def act(
        self,
        prefix: PrefixT_contra,
        state: Tensor,
        w: FastWeights,
        /,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return chunks `[B, H, A]`, normalised."""


PolicyT = TypeVar("PolicyT", bound=Acting)  # type: ignore[type-arg]
BatchT = TypeVar("BatchT", bound=Sized)


@torch.no_grad()
def run_gates(  # noqa: PLR0913 - named, each a different thing to look at
    policy: PolicyT,
    losses: Callable[[PolicyT, BatchT, FastWeights], Losses],
    *,
    held_out: BatchT,
    active: FastWeights,
    candidate: FastWeights,
    base: FastWeights,
    anchors: tuple[object, Tensor] | None,
    config: GateConfig,
    action_mask: Tensor | None = None,
) -> GateReport:
    """Decide whether a candidate W may become the active one.

    Args:
        policy: the frozen model.
        losses: the alignment losses.
        held_out: transitions that alignment did not see, in order of time.
        active: the W that acts now.
        candidate: the W to judge.
        base: W0, as pretraining left it.
        anchors: prefix and state `[B, S]` of observations to compare actions on; None to skip.
        config: the limits.
        action_mask: bool `[A]`, which of the policy's actions the robot has; None for all.
    """
    first = _check_finite(candidate, base)
    if not first.passed:
        return GateReport((first,))
    checks = [first, _check_delta(candidate, base, config)]
    if len(held_out) == 0:
        checks.append(_no_held_out())
    else:
        before = losses(policy, held_out, active).by_transition
        after = losses(policy, held_out, candidate).by_transition
        checks += _check_losses(before, after, config)
    if anchors is not None:
        checks += _check_actions(policy, anchors, active, candidate, config, action_mask)
    return GateReport(tuple(checks))


def _check_finite(candidate: FastWeights, base: FastWeights) -> GateCheck:
    if candidate.shapes() != base.shapes():
        message = "candidate does not have the shapes of this model's W"
        return GateCheck("finite", False, math.nan, 0.0, message)
    bad = int(sum((~tensor.isfinite()).sum() for tensor in candidate.named().values()))
    message = f"{bad} values of the candidate are not finite, expected none"
    return GateCheck("finite", bad == 0, float(bad), 0.0, message)


def _check_delta(candidate: FastWeights, base: FastWeights, config: GateConfig) -> GateCheck:
    delta = _norm(candidate.combine(base, torch.sub))
    norm = _norm(base)
    relative = delta / norm if norm > 0 else (0.0 if delta == 0 else math.inf)
    limit = config.max_relative_delta
    message = f"W moved by {relative:.4g} times the norm of the base, expected at most {limit:.4g}"
    return GateCheck("relative_delta", relative <= limit, relative, limit, message)


def _norm(w: FastWeights) -> float:
    # In float64: squares of large float32 overflow.
    return float(w.map(lambda tensor: tensor.double()).norm())


def _no_held_out() -> GateCheck:
    message = "no held-out transitions to judge the candidate on; record more play"
    return GateCheck("held_out_total", False, math.nan, math.nan, message)


def _check_losses(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], config: GateConfig
) -> list[GateCheck]:
    checks = [_check_total(before["total"], after["total"], config)]
    names = {f"alignment/{name}": name for name in before.keys() - {"total"}}
    for public in sorted(names.keys() - set(config.exempt_losses)):
        old = before[names[public]]
        new = after.get(names[public], torch.full_like(old, math.nan))
        checks.append(_check_single(public, old, new, config))
    return checks


def _check_total(before: Tensor, after: Tensor, config: GateConfig) -> GateCheck:
    old, new, error = float(before.mean()), float(after.mean()), _standard_error(after - before)
    wanted = max(config.min_improvement * old, config.min_improvement_errors * error)
    limit = old - wanted
    passed = new <= limit
    message = (
        f"{'better' if passed else 'no better'} than the active W: held-out total is {new:.4g}, "
        f"now {old:.4g}; expected at most {limit:.4g}, a fall by {config.min_improvement:.0%} "
        f"and by {config.min_improvement_errors:g} standard errors of {error:.2g}"
    )
    return GateCheck("held_out_total", passed, new, limit, message)


def _check_single(name: str, before: Tensor, after: Tensor, config: GateConfig) -> GateCheck:
    old, new, error = float(before.mean()), float(after.mean()), _standard_error(after - before)
    noise = max(config.max_small_increase, config.max_increase_errors * error)
    limit = old + max(config.max_single_increase * old, noise)
    message = f"held-out {name} is {new:.4g} (now {old:.4g}), expected at most {limit:.4g}"
    return GateCheck(name, new <= limit, new, limit, message)


def _standard_error(differences: Tensor) -> float:
    """Of the mean of paired differences [B] in order of time; infinite if it cannot be told.

    Neighbours in time are alike, so the means of stretches count as the independent measurements.
    """
    count = min(len(differences), max(len(differences) // _STRETCH, _FEWEST_STRETCHES))
    if count < 2:
        return math.inf
    means = torch.stack([part.double().mean() for part in differences.tensor_split(count)])
    return float(means.std()) / math.sqrt(count)


def _check_actions(
    policy: Acting[PrefixT],
    anchors: tuple[PrefixT, Tensor],
    active: FastWeights,
    candidate: FastWeights,
    config: GateConfig,
    action_mask: Tensor | None,
) -> list[GateCheck]:
    old = _chunk(policy, anchors, active, config.noise_seed, action_mask)
    new = _chunk(policy, anchors, candidate, config.noise_seed, action_mask)
    deviation = float((new - old).abs().mean())
    outside = _share_outside(new, config.action_range)
    limit = _share_outside(old, config.action_range) + config.max_share_outside
    return [
        GateCheck(
            "action_deviation",
            deviation <= config.max_action_deviation,
            deviation,
            config.max_action_deviation,
            f"actions on the anchors change by {deviation:.4g} on average, expected at most "
            f"{config.max_action_deviation:.4g} (normalised; the range of limits is 2)",
        ),
        GateCheck(
            "actions_outside",
            outside <= limit,
            outside,
            limit,
            f"{outside:.1%} of the actions on the anchors are beyond {config.action_range} "
            f"(normalised), expected at most {limit:.1%}",
        ),
    ]


def _share_outside(chunk: Tensor, action_range: float) -> float:
    # Counted as "not inside", so that NaN is outside.
    return 1.0 - float((chunk.abs() <= action_range).double().mean())


def _chunk(
    policy: Acting[PrefixT],
    anchors: tuple[PrefixT, Tensor],
    w: FastWeights,
    seed: int,
    action_mask: Tensor | None,
) -> Tensor:
    prefix, state = anchors
    generator = torch.Generator(state.device).manual_seed(seed)
    chunk = policy.act(prefix, state, w, generator=generator).float()
    return chunk if action_mask is None else chunk[..., action_mask]
