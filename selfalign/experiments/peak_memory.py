"""What something takes: seconds, and the most memory of this process meanwhile.

Linux tells the memory; other systems do not.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, final

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
# See proc_pid_clear_refs(5): resets the peak of the resident set to what it is now.
_RESET_PEAK: Final = "5"
T = TypeVar("T")


@final
@dataclass(frozen=True)
class Took:
    """Seconds by the wall and of this process, and most resident memory; None if unknown."""

    wall_s: float
    cpu_s: float
    peak_mb: float | None


def measured(what: Callable[[], T]) -> tuple[T, Took]:
    """What a function returns, and what it took."""
    reset_peak()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    found = what()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return found, Took(wall_s, cpu_s, peak_mb())


def reset_peak() -> None:
    """Let the peak begin anew; does nothing where the system does not keep one."""
    if _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")


def peak_mb() -> float | None:
    """Most resident memory [MB] since `reset_peak`; None where the system does not tell."""
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return None
