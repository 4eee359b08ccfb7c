"""The most memory that this process holds while something runs. Linux tells; others do not."""

from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
# See proc_pid_clear_refs(5): resets the peak of the resident set to what it is now.
_RESET_PEAK: Final = "5"


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
