"""An ablation as text and as JSON."""

from collections.abc import Sequence
from typing import Any

from selfalign.experiments.ablation import Outcome, VariantResult, result_json
from selfalign.experiments.ablation_axes import Axis, UnavailableVariant, Variant
from selfalign.experiments.tables import p_text, rate_text, table

Row = tuple[Axis, Sequence[tuple[Variant, Outcome]]]


def results_of(outcomes: Sequence[tuple[Variant, Outcome]]) -> list[VariantResult]:
    """The variants that were run."""
    return [found for _, found in outcomes if isinstance(found, VariantResult)]


def ablation_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All axes as plain values."""
    return [
        {
            "axis": axis.name,
            "title": axis.title,
            "variants": [
                result_json(variant.name, variant.title, outcome) for variant, outcome in outcomes
            ],
        }
        for axis, outcomes in rows
    ]


def ablation_table(axis: Axis, outcomes: Sequence[tuple[Variant, Outcome]]) -> str:
    """One row a variant; below it what could not be run, and why."""
    results = results_of(outcomes)
    missing = [
        f"{variant.name}: {outcome}"
        for variant, outcome in outcomes
        if isinstance(outcome, UnavailableVariant)
    ]
    parts = [axis.title]
    if results:
        config = results[0].config
        head = [
            "variant",
            "zero-shot",
            *(f"few-shot, {n} x {config.trajectory_seconds:g} s" for n in config.trajectories),
            "better / worse",
            "p",
            f"play for {config.target_success:.0%} [s]",
            "align [s]",
            "memory [MB]",
            "training [min]",
        ]
        parts.append(table(head, [_row(result) for result in results]))
    if missing:
        parts.append("Not available:\n" + "\n".join(f"- {line}" for line in missing))
    return "\n\n".join(parts)


def _row(result: VariantResult) -> list[str]:
    play_s = result.config.play_seconds
    against = result.against_base(play_s[-1])
    needed, cost, training = result.seconds_to_target, result.cost, result.training
    return [
        result.variant.title,
        rate_text(result.rate(0.0)),
        *(rate_text(result.rate(seconds)) for seconds in play_s),
        f"{against.improved} / {against.worsened}",
        p_text(against.p_value),
        "-" if needed is None else f"{needed:g}",
        _decimals(cost and cost.cpu_s, 2),
        _decimals(cost and cost.peak_mb, 0),
        _decimals(training and training.seconds / 60, 1),
    ]


def _decimals(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
