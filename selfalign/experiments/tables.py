"""Figures as Markdown tables, padded so that a terminal shows them as well."""

from collections.abc import Sequence
from statistics import median

from selfalign.experiments.calibration import TRUTHS, Calibration
from selfalign.experiments.paired import Rate
from selfalign.experiments.summary import CellResult

_MAIN = ("base", "aligned", "oracle")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns padded to equal width; all but the first to the right."""
    # A rule needs a dash beside its colon.
    widths = [max(2, *(len(row[i]) for row in (head, *rows))) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(cells)} |"

    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def cells_table(results: Sequence[CellResult]) -> str:
    """One row a cell: base, aligned as served, ungated, oracle, and what alignment took."""
    head = [
        "cell",
        "base",
        "aligned",
        "without gates",
        "oracle",
        "gap closed",
        "better / worse",
        "p",
        "robots worse",
        "refused",
        "align [s]",
    ]
    return table(head, [_cell_row(result) for result in results])


def methods_table(result: CellResult) -> str:
    """One row a method, each against the base W on the same starts."""
    rows = []
    for name in result.settings.methods:
        served = result.against_base(name)
        ungated = rate_text(result.rate(name, served=False)) if _is_judged(result, name) else ""
        rows.append(
            [
                name,
                rate_text(served.after),
                ungated,
                f"{served.improved} / {served.worsened}",
                p_text(served.p_value),
            ]
        )
    found = table(["method", "success", "without gates", "better / worse", "p"], rows)
    worth = result.worth_demonstrations
    if worth is None:
        return found
    return f"{found}\n\nAligned W does at least as well as the labels of {worth} demonstrations."


def calibration_tables(found: Calibration) -> str:
    """Verdicts against truth, failed checks, and what each measure knows."""
    verdicts = [
        [word, *(str(found.table[promoted, truth]) for truth in TRUTHS)]
        for promoted, word in ((True, "promoted"), (False, "refused"))
    ]
    checks = [
        [name, *(str(counts[truth]) for truth in TRUTHS)]
        for name, counts in sorted(found.checks.items())
        if any(counts.values())
    ]
    known = sorted(found.auc, key=lambda name: -abs((found.auc[name] or 0.5) - 0.5))
    rows = [
        [name, *(_number(part[name]) for part in (found.auc, found.spearman, found.pearson))]
        for name in known
    ]
    total = "held_out total"
    parts = [
        table(["gates", *TRUTHS], verdicts),
        f"Precision of promotion (got better) {_number(found.precision)}, did no harm "
        f"{_number(found.harmless)}, recall {_number(found.recall)}. Held-out loss and success: "
        f"correlation {_number(found.pearson.get(total))}, of the ranks "
        f"{_number(found.spearman.get(total))}.",
        table(["failed check", *TRUTHS], checks or [["none", "", "", ""]]),
        table(["lower measure", "AUC of better", "rank corr. success", "corr. success"], rows),
    ]
    if found.early_steps:
        parts.insert(2, _early_stop(found.early_steps))
    return "\n\n".join(parts)


def _early_stop(steps: Sequence[int]) -> str:
    counts = {n: steps.count(n) for n in sorted(set(steps))}
    listed = ", ".join(f"{n} steps: {count}" for n, count in counts.items())
    return (
        f"Early stop, by the loss on play kept back, would take a median of {median(steps):g} "
        f"steps (robots by steps: {listed})."
    )


def _cell_row(result: CellResult) -> list[str]:
    methods = result.settings.methods
    shares = {name: rate_text(result.rate(name)) if name in methods else "" for name in _MAIN}
    row = [result.cell.name, shares["base"], shares["aligned"]]
    if "aligned" not in methods:
        return [*row, "", shares["oracle"], *[""] * 6]
    gain = result.against_base("aligned")
    return [
        *row,
        rate_text(result.rate("aligned", served=False)),
        shares["oracle"],
        _number(result.gap_closed),
        f"{gain.improved} / {gain.worsened}",
        p_text(gain.p_value),
        f"{result.robots_worse} of {len(result.records)}",
        f"{result.refused} of {len(result.records)}",
        _number(result.align_cpu_s),
    ]


def _is_judged(result: CellResult, name: str) -> bool:
    return any(name in record.verdicts for record in result.records)


def rate_text(rate: Rate) -> str:
    """Success in per cent with its Wilson interval."""
    low, high = rate.interval
    return f"{100 * rate.value:.0f} % ({100 * low:.0f}-{100 * high:.0f})"


def p_text(value: float) -> str:
    """A p value in two digits, or one where it is tiny."""
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
