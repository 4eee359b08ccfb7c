"""Waiting longer and longer, and giving up in the end."""

import random

import pytest

from client.retry import Backoff
from tests.fakes.clock import FakeClock


class Failing:
    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise ConnectionError("refused")
        return "done"


def backoff(clock: FakeClock, **kwargs: float) -> Backoff:
    return Backoff(clock=clock, random=random.Random(0), **kwargs)


def run(policy: Backoff, attempt: Failing) -> str:
    return policy.run(
        attempt,
        retry_on=(ConnectionError,),
        failed=lambda error, waited_s: TimeoutError(f"{error} after {waited_s:.1f}"),
    )


def test_waits_double_up_to_the_longest_with_jitter() -> None:
    clock = FakeClock()
    policy = backoff(clock, first_s=1, longest_s=4, give_up_after_s=100)
    assert run(policy, Failing(5)) == "done"
    for waited, nominal in zip(clock.sleeps_s, [1, 2, 4, 4, 4], strict=True):
        assert 0.75 * nominal <= waited <= 1.25 * nominal
    assert len({waited / 4 for waited in clock.sleeps_s[2:]}) == 3, "jittered"


def test_gives_up_within_its_time() -> None:
    clock = FakeClock()
    with pytest.raises(TimeoutError, match="refused after"):
        run(backoff(clock, first_s=1, longest_s=2, give_up_after_s=10), Failing(1000))
    assert clock.now_s() <= 10


def test_zero_patience_is_one_try() -> None:
    clock = FakeClock()
    attempt = Failing(1000)
    with pytest.raises(TimeoutError):
        run(backoff(clock, give_up_after_s=0), attempt)
    assert attempt.left == 999
    assert clock.sleeps_s == []


def test_other_errors_pass_at_once() -> None:
    def broken() -> str:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        backoff(FakeClock()).run(broken, retry_on=(ConnectionError,), failed=lambda e, _: e)
