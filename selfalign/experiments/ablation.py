"""Run the variants of an axis, and what is to be said of each: the metrics of the plan.

Zero-shot success is that of W0, few-shot success that of W after N trajectories of play, both in
the same episodes; speed is the least play that reaches a wanted success; cost is seconds and memory
of training and of aligning. Success is that of the W that came out, whatever the gates say of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, final

from pydantic import BaseModel, ConfigDict, Field

from selfalign.align.aligner import AlignmentConfig
from selfalign.experiments.ablation_axes import (
    UnavailableVariant,
    Variant,
    override,
    training_of,
)
from selfalign.experiments.ablation_train import Cost, Training
from selfalign.experiments.cells import Cell
from selfalign.experiments.evaluation import Task, evaluate
from selfalign.experiments.paired import Comparison, Rate, compare
from selfalign.experiments.peak_memory import Took
from selfalign.experiments.records import RobotRecord
from selfalign.experiments.settings import Settings, model_sha256
from selfalign.experiments.summary import CellResult, as_json
from selfalign.pretrain.config import PretrainConfig

_METHOD = {"play": "play_{:g}", "global": "global_{:g}", "per_sample": "per_sample"}


@final
class AblationConfig(BaseModel):
    """How much is measured of every variant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings = Settings()
    trajectories: tuple[int, ...] = Field((1, 2, 3), min_length=1, description="N, rising")
    trajectory_seconds: float = Field(5.0, gt=0, description="Play of one trajectory")
    target_success: float = Field(0.9, gt=0, le=1)

    @property
    def play_seconds(self) -> list[float]:
        """Seconds of play of each N."""
        return [count * self.trajectory_seconds for count in self.trajectories]

    def settings_of(self, variant: Variant, inner: AlignmentConfig | None = None) -> Settings:
        """The evaluation of a variant, which aligns as its training did if `inner` is given.

        Raises:
            UnavailableVariant: it sets what is not there.
        """
        play_s = self.play_seconds
        methods = dict.fromkeys(self.method_of(variant, seconds) for seconds in (0.0, *play_s))
        update: dict[str, Any] = {"methods": tuple(methods), "play_seconds": play_s[-1]}
        if inner is not None:
            update["alignment"] = inner
        changed = self.settings.model_copy(update=update)
        return override(changed, variant.settings, variant.name)

    def method_of(self, variant: Variant, seconds: float) -> str:
        """What acts after so much play: W0 where there is none, or nothing adapts."""
        if seconds == 0:
            return "base"
        if variant.adapts == "play" and seconds == self.play_seconds[-1]:
            return "aligned"  # The one whose cost is kept.
        return _METHOD.get(variant.adapts, "base").format(seconds)


@final
@dataclass(frozen=True)
class VariantResult:
    """What came out for one variant, over all cells; `training` is None where none was done."""

    variant: Variant
    config: AblationConfig
    model: Path
    cells: tuple[CellResult, ...]
    training: Cost | None

    def rate(self, seconds: float) -> Rate:
        """Success after so much play; 0 is W0."""
        name = self.config.method_of(self.variant, seconds)
        rates = [cell.rate(name, served=False) for cell in self.cells]
        return Rate(sum(r.successes for r in rates), sum(r.episodes for r in rates))

    def against_base(self, seconds: float) -> Comparison:
        """Success after so much play against W0, episode by episode."""
        name = self.config.method_of(self.variant, seconds)
        records = [record for cell in self.cells for record in cell.records]
        return compare([(record.success["base"], record.success[name]) for record in records])

    @property
    def seconds_to_target(self) -> float | None:
        """The least play that reaches the wanted success; None if none that was tried does."""
        for seconds in (0.0, *self.config.play_seconds):
            if self.rate(seconds).value >= self.config.target_success:
                # Episodes that learn by themselves need none, however they are counted.
                return 0.0 if self.variant.adapts == "per_sample" else seconds
        return None

    @property
    def cost(self) -> Took | None:
        """What the most play took, as means over robots; None where nothing is made of play."""
        name = self.config.method_of(self.variant, self.config.play_seconds[-1])
        took = [r.took[name] for cell in self.cells for r in cell.records if name in r.took]
        if not took:
            return None
        peaks = [each.peak_mb for each in took if each.peak_mb is not None]
        return Took(
            fmean(each.wall_s for each in took),
            fmean(each.cpu_s for each in took),
            fmean(peaks) if peaks else None,
        )


Outcome = VariantResult | UnavailableVariant


@final
@dataclass(frozen=True)
class Place:
    """Which model is varied, and where robots that were run are kept.

    `training` is None where nothing is trained, else how, and the configuration that is varied.
    """

    model: Path
    cache: Path
    training: tuple[Training, PretrainConfig] | None = None
    jobs: int = 1


def run_variant(
    variant: Variant,
    config: AblationConfig,
    cells: Sequence[Cell],
    place: Place,
    *,
    begun: Callable[[int, int], None] = lambda done, total: None,
    ended: Callable[[Task, RobotRecord], None] = lambda task, record: None,
) -> VariantResult:
    """Train a variant, or take the model as it is, and measure it.

    Raises:
        UnavailableVariant: it sets what is not there, or needs training.
    """
    trained = None if place.training is None else training_of(variant, place.training[1])
    settings = config.settings_of(variant, trained.stage1.inner if trained else None)
    model, cost = _model_of(variant, place, trained)
    work = [(cell, settings) for cell in cells]
    found = evaluate(model, work, place.cache, jobs=place.jobs, begun=begun, ended=ended)
    results = (
        CellResult(cell, settings, tuple(records))
        for cell, records in zip(cells, found, strict=True)
    )
    return VariantResult(variant, config, model, tuple(results), cost)


def _model_of(
    variant: Variant, place: Place, trained: PretrainConfig | None
) -> tuple[Path, Cost | None]:
    if place.training is not None and trained is not None:
        training, common = place.training
        return training.train(trained, common), Cost.of(training.run_of(trained))
    if variant.needs_training:
        raise UnavailableVariant(f"variant {variant.name!r} needs training: not with --stage2-only")
    return place.model, None


def result_json(name: str, title: str, outcome: Outcome) -> dict[str, Any]:
    """One variant as plain values; shares of 1, seconds and megabytes."""
    head: dict[str, Any] = {"variant": name, "title": title}
    if isinstance(outcome, UnavailableVariant):
        return {**head, "available": False, "reason": str(outcome)}
    config, cost = outcome.config, outcome.cost
    return {
        **head,
        "available": True,
        "model_sha256": model_sha256(outcome.model),
        "zero_shot": _rate(outcome.rate(0.0)),
        "few_shot": [
            {"trajectories": count, "play_s": seconds, **_gain(outcome, seconds)}
            for count, seconds in zip(config.trajectories, config.play_seconds, strict=True)
        ],
        "target_success": config.target_success,
        "play_s_to_target": outcome.seconds_to_target,
        "cost": {
            "training": outcome.training.model_dump() if outcome.training else None,
            "align_s": cost and cost.wall_s,
            "align_cpu_s": cost and cost.cpu_s,
            "align_peak_mb": cost and cost.peak_mb,
        },
        "cells": [as_json(cell) for cell in outcome.cells],
    }


def _gain(outcome: VariantResult, seconds: float) -> dict[str, Any]:
    against = outcome.against_base(seconds)
    return {
        **_rate(outcome.rate(seconds)),
        "better": against.improved,
        "worse": against.worsened,
        "p_value": against.p_value,
    }


def _rate(rate: Rate) -> dict[str, Any]:
    low, high = rate.interval
    return {
        "success": round(rate.value, 4),
        "interval": [round(low, 4), round(high, 4)],
        "episodes": rate.episodes,
    }
