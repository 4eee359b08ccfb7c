"""Names of episodes: safe as a directory, and sorted by the time they began."""

import re
import secrets
from contextlib import suppress
from datetime import datetime, timedelta

EPISODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_FORMAT = "%Y%m%dT%H%M%S"


def new_episode_id(now: datetime, *, after: str = "") -> str:
    """Return an identifier that sorts after another, also if the wall clock was set back.

    A robot without a battery-backed clock would otherwise see its fresh play deleted as oldest.
    """
    # An identifier that is none of ours holds no such time.
    with suppress(ValueError, OverflowError):
        stamp = datetime.strptime(after[:18] + "000+0000", "%Y%m%dT%H%M%S%f%z")
        now = max(now, stamp + timedelta(milliseconds=1))
    milliseconds = now.microsecond // 1000
    return f"{now.strftime(_FORMAT)}{milliseconds:03d}-{secrets.token_hex(3)}"
