"""The benchmarks' own arithmetic, and that every figure that was promised is in the list."""

import json

import pytest

from tests.benchmarks.__main__ import BENCHMARKS, main
from tests.benchmarks.figure import Figure, percentile

PROMISED = {
    "act_ws_overhead_p50_ms",
    "act_http_overhead_p50_ms",
    "act_p99_align_over_idle",
    "swap_failed",
    "swap_mislabelled",
    "swap_p99_us",
    "play_steps_per_s",
    "play_cpu_share_50hz",
    "align_step_uncached_over_cached",
    "rtc_seam_jump_off",
    "rtc_seam_jump_guided",
    "server_rss_mb",
    "worker_rss_mb",
    "full_transformers_over_ours",
    "full_align_uncached_over_cached",
}


def test_every_promised_figure_has_a_benchmark() -> None:
    listed = {figure for figures in BENCHMARKS.values() for figure in figures}
    assert PROMISED - listed == set()


@pytest.mark.parametrize(
    ("value", "better", "met"),
    [(1.0, "lower", True), (1.1, "lower", False), (1.0, "higher", True), (0.9, "higher", False)],
)
def test_a_goal_is_met_on_its_better_side(value: float, better: str, met: bool) -> None:
    assert Figure("f", value, "ms", goal=1.0, better=better).met is met


def test_a_figure_is_one_line_of_json() -> None:
    line = Figure("rate", 301.23456, "step/s", 300.0, "higher", {"steps": 10}).line()
    assert "\n" not in line
    assert json.loads(line) == {
        "figure": "rate",
        "value": 301.2,
        "unit": "step/s",
        "goal": ">= 300",
        "met": True,
        "steps": 10,
    }


def test_without_a_goal_there_is_no_verdict() -> None:
    record = json.loads(Figure("rss", 1.0, "MB").line())
    assert "met" not in record


def test_a_percentile_is_interpolated() -> None:
    assert percentile([0.0, 10.0], 50) == 5.0


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-figure"]) == 2
    assert "act_overhead" in capsys.readouterr().err
