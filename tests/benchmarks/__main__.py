"""`python -m tests.benchmarks [NAME...]`: every figure as one line of JSON on standard output.

A name picks the benchmarks whose file or figures contain it. The exit status is 1 when a benchmark
could not be run; a missed goal is a result (`"met": false`), not a failure.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback

# Before torch is imported: what the server and its worker use as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

BENCHMARKS = {
    "act_overhead": ("act_ws_overhead_p50_ms", "act_http_overhead_p50_ms"),
    "act_during_align": ("act_p99_align_over_idle",),
    "swap": ("swap_failed", "swap_mislabelled"),
    "swap_time": ("swap_p99_us",),
    "play": ("play_steps_per_s", "play_cpu_share_50hz"),
    "align_cache": ("align_step_uncached_over_cached",),
    "rtc": ("rtc_seam_jump_off", "rtc_seam_jump_guided", "rtc_seam_jump_guided_vjp"),
    "full": ("full_transformers_over_ours",),
    "full_align": ("full_align_uncached_over_cached",),
    "memory": ("server_rss_mb", "worker_rss_mb"),
}


def main(names: list[str]) -> int:
    """Run the benchmarks that match any of the names (all without names)."""
    chosen = [
        module
        for module, figures in BENCHMARKS.items()
        if not names or any(name in text for name in names for text in (module, *figures))
    ]
    if not chosen:
        print(f"no benchmark matches {names}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    failed = []
    for module in chosen:
        print(f"{module} ...", file=sys.stderr, flush=True)
        started_s = time.monotonic()
        try:
            for figure in importlib.import_module(f"tests.benchmarks.{module}").measure():
                print(figure.line(), flush=True)
        except Exception:  # noqa: BLE001 - one broken benchmark must not hide the others
            traceback.print_exc()
            failed.append(module)
        print(f"{module}: {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
