from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOW = """
import os, sys
from server.child import lower_priority
lower_priority(int(sys.argv[1]))
print(os.nice(0), os.sched_getscheduler(0))
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the idle policy is Linux's own")
@pytest.mark.parametrize(("nice", "policy"), [(18, "SCHED_OTHER"), (19, "SCHED_IDLE")])
def test_a_process_at_the_lowest_priority_runs_where_nothing_else_wants_to(
    nice: int, policy: str
) -> None:
    # The test may run niced itself; what is asked for comes on top and ends at 19.
    os_nice = os.nice(0)

    shown = subprocess.run(
        [sys.executable, "-c", SHOW, str(max(0, nice - os_nice))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert [int(word) for word in shown] == [nice, getattr(os, policy)]
