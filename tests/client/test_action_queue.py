"""The queue executes each step in its own period or not at all."""

import numpy as np
import pytest

from client.action_queue import ActionQueue
from client.chunk import ActionChunk
from tests.fakes.clock import FakeClock


def chunk(*, observed_at_s: float, steps: int = 4, first: float = 0.0) -> ActionChunk:
    values = first + np.arange(steps, dtype=np.float32)
    return ActionChunk(actions=values[:, None], dt_s=0.1, observed_at_s=observed_at_s)


def popped(queue: ActionQueue) -> float | None:
    action = queue.pop()
    return None if action is None else float(action[0])


def test_steps_come_in_order_each_in_its_period() -> None:
    clock = FakeClock()
    queue = ActionQueue(rate_hz=10, clock=clock)
    queue.push(chunk(observed_at_s=0.0, steps=3))
    seen = []
    for _ in range(4):
        seen.append(popped(queue))
        clock.advance(0.1)
    assert seen == [0.0, 1.0, 2.0, None]


def test_late_chunk_is_dropped() -> None:
    clock = FakeClock()
    queue = ActionQueue(rate_hz=10, clock=clock)
    clock.advance(0.5)
    assert queue.push(chunk(observed_at_s=0.0, steps=3)) == 0
    assert queue.pop() is None
    assert queue.dropped == 3


def test_late_steps_of_a_chunk_are_dropped_and_the_rest_is_kept() -> None:
    clock = FakeClock()
    queue = ActionQueue(rate_hz=10, clock=clock)
    clock.advance(0.2)
    assert queue.push(chunk(observed_at_s=0.0, steps=4)) == 2
    assert popped(queue) == 2.0
    assert queue.dropped == 2


def test_a_step_is_not_executed_before_its_period() -> None:
    clock = FakeClock()
    queue = ActionQueue(rate_hz=10, clock=clock)
    queue.push(chunk(observed_at_s=0.2))
    assert queue.pop() is None
    clock.advance(0.2)
    assert popped(queue) == 0.0


def test_one_period_yields_one_step() -> None:
    clock = FakeClock()
    queue = ActionQueue(rate_hz=10, clock=clock)
    queue.push(chunk(observed_at_s=0.0))
    assert popped(queue) == 0.0
    clock.advance(0.01)
    assert queue.pop() is None


def test_newer_chunk_replaces_from_its_first_step_on() -> None:
    clock = FakeClock()
    queue = ActionQueue(rate_hz=10, clock=clock)
    queue.push(chunk(observed_at_s=0.0, steps=4))
    queue.push(chunk(observed_at_s=0.2, steps=4, first=10))
    seen = []
    for _ in range(7):
        seen.append(popped(queue))
        clock.advance(0.1)
    assert seen == [0.0, 1.0, 10.0, 11.0, 12.0, 13.0, None]


def test_chunk_of_an_older_observation_does_not_replace_a_newer_one() -> None:
    queue = ActionQueue(rate_hz=10, clock=FakeClock())
    queue.push(chunk(observed_at_s=0.0, first=10))
    assert queue.push(chunk(observed_at_s=-0.1)) == 0
    assert popped(queue) == 10.0


def test_clear_also_forgets_replies_still_on_their_way() -> None:
    clock = FakeClock()
    queue = ActionQueue(rate_hz=10, clock=clock)
    queue.push(chunk(observed_at_s=0.0))
    clock.advance(0.1)
    queue.clear()
    assert queue.push(chunk(observed_at_s=0.0)) == 0
    assert queue.pop() is None
    assert queue.push(chunk(observed_at_s=0.1)) == 4


def test_remaining_time_counts_the_last_steps_own_period() -> None:
    clock = FakeClock()
    queue = ActionQueue(rate_hz=10, clock=clock)
    assert queue.remaining_s == 0.0
    queue.push(chunk(observed_at_s=0.0, steps=4))
    assert queue.remaining_s == pytest.approx(0.4)
    clock.advance(0.3)
    assert queue.remaining_s == pytest.approx(0.1)


def test_a_rate_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="rate_hz must be positive"):
        ActionQueue(rate_hz=0, clock=FakeClock())


def test_remaining_steps_begin_with_the_present_one_and_end_at_a_gap() -> None:
    clock = FakeClock()
    queue = ActionQueue(rate_hz=10, clock=clock)
    assert queue.remaining() == []
    queue.push(chunk(observed_at_s=0.0, steps=3))
    queue.push(chunk(observed_at_s=0.4, steps=2, first=10))
    assert [float(action[0]) for action in queue.remaining()] == [0.0, 1.0, 2.0]
    clock.advance(0.11)
    assert [float(action[0]) for action in queue.remaining()] == [1.0, 2.0]
    assert popped(queue) == 1.0
    clock.advance(0.19)
    assert queue.remaining() == [], "the step of this period is missing"
    clock.advance(0.1)
    assert [float(action[0]) for action in queue.remaining()] == [10.0, 11.0]
