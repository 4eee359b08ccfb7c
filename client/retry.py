"""How long to keep trying, and how long to wait between tries."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, final

from client.clock import Clock, MonotonicClock

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Backoff:
    """Waits that double from `first_s` to `longest_s` with jitter, until `give_up_after_s`.

    `give_up_after_s = 0` means one try only. The jitter (a quarter up or down) keeps a fleet of
    robots from reconnecting in step after their server restarts.
    """

    first_s: float = 0.1
    longest_s: float = 2.0
    give_up_after_s: float = 10.0
    clock: Clock = field(default_factory=MonotonicClock)
    random: random.Random = field(default_factory=random.Random)

    def run(
        self,
        attempt: Callable[[], T],
        *,
        retry_on: tuple[type[Exception], ...],
        failed: Callable[[Exception, float], Exception],
    ) -> T:
        """Call `attempt` until it returns or the time is over.

        Args:
            attempt: What to try.
            retry_on: Exceptions that mean "try again"; any other passes through at once.
            failed: Makes the exception to raise from the last failure and the seconds waited.
        """
        start_s = self.clock.now_s()
        wait_s = self.first_s
        while True:
            try:
                return attempt()
            except retry_on as error:
                waited_s = self.clock.now_s() - start_s
                if waited_s + wait_s > self.give_up_after_s:
                    raise failed(error, waited_s) from error
            self.clock.sleep_s(wait_s * self.random.uniform(0.75, 1.25))
            wait_s = min(2 * wait_s, self.longest_s)
