"""The loop keeps its rate whatever the network does."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client.chunk import ActionChunk, Continuation, Observation
from client.control import ControlLoop, RealTimeChunking
from client.errors import Disconnected, ServerProblem
from tests.fakes.clock import FakeClock
from tests.fakes.executor import ManualExecutor


class FakeRobot:
    """Writes down what it was told; optionally each call takes time."""

    def __init__(self, work: Callable[[], None] = lambda: None) -> None:
        self.log: list[float | str] = []
        self.observations = 0
        self._work = work

    def observe(self) -> Observation:
        self.observations += 1
        return {"images": {}, "state": [0.0], "instruction": "wait"}

    def apply(self, action: np.ndarray) -> None:
        self._work()
        self.log.append(float(action[0]))

    def hold(self) -> None:
        self.log.append("hold")


class FakePolicy:
    """Answers with steps 0, 1, 2, ... or with the given error."""

    def __init__(self, *, steps: int = 4, dt_s: float = 0.1) -> None:
        self.steps, self.dt_s = steps, dt_s
        self.version = 0
        self.error: Exception | None = None
        self.sequences: list[int] = []
        self.previous: list[np.ndarray | None] = []
        self.continuations: list[Continuation | None] = []

    def act(
        self,
        observation: Any,
        *,
        observed_at_s: float,
        observation_seq: int,
        previous_action: np.ndarray | None,
        continuation: Continuation | None,
    ) -> ActionChunk:
        self.sequences.append(observation_seq)
        self.continuations.append(continuation)
        self.previous.append(previous_action)
        if self.error is not None:
            raise self.error
        actions = np.arange(self.steps, dtype=np.float32)[:, None]
        return ActionChunk(
            actions=actions, dt_s=self.dt_s, observed_at_s=observed_at_s, w_version=self.version
        )


class Rig:
    """A loop at 10 Hz with everything around it fake."""

    def __init__(
        self,
        *,
        real_time: RealTimeChunking | None = None,
        held: np.ndarray | None = None,
        **policy: Any,
    ) -> None:
        self.clock, self.executor = FakeClock(), ManualExecutor()
        self.robot, self.policy = FakeRobot(), FakePolicy(**policy)
        self.loop = ControlLoop(
            self.robot,
            self.policy,
            rate_hz=10,
            real_time=real_time,
            held=held,
            clock=self.clock,
            executor=self.executor,
        )

    def rounds(self, delays: list[int]) -> None:
        """Have each request answered so many ticks after it was asked."""
        for delay in delays:
            while not self.executor.waiting:
                self.ticks(1, reply=False)
            self.ticks(delay - 1, reply=False)
            self.executor.run_next()
        self.ticks(1, reply=False)

    def ticks(self, count: int, *, reply: bool = True) -> None:
        """Tick, and let the network answer within the period if `reply`."""
        for _ in range(count):
            self.loop.tick()
            if reply and self.executor.waiting:
                self.executor.run_next()
            self.clock.advance(0.1)


def problem(status: int) -> ServerProblem:
    return ServerProblem(code="x", title="Refused", detail="because", status=status)


def test_holds_until_the_first_reply_then_executes_its_steps() -> None:
    rig = Rig()
    rig.ticks(2)
    assert rig.robot.log == ["hold", 1.0]


def test_asks_before_the_last_step_so_that_nothing_is_held() -> None:
    rig = Rig()
    rig.ticks(40)
    assert rig.robot.log[0] == "hold"
    assert "hold" not in rig.robot.log[1:]
    assert rig.loop.statistics.requests > 10


def test_a_long_chunk_is_not_asked_for_at_every_tick() -> None:
    rig = Rig(steps=20)
    rig.ticks(20)
    assert rig.loop.statistics.requests == 2


def test_a_silent_server_never_blocks_a_tick_and_the_robot_holds() -> None:
    rig = Rig()
    rig.ticks(3)
    rig.ticks(10, reply=False)
    assert rig.robot.log[-1] == "hold"
    assert len(rig.executor.waiting) == 1, "one request in flight, not one a tick"
    assert rig.loop.statistics.ticks == 13


def test_steps_go_on_after_silence_with_the_late_ones_dropped() -> None:
    rig = Rig(steps=8)
    rig.ticks(1, reply=False)
    rig.ticks(2, reply=False)
    rig.executor.run_next()
    rig.ticks(1)
    assert rig.robot.log == ["hold", "hold", "hold", 3.0]
    assert rig.loop.statistics.dropped == 3


def test_a_chunk_that_is_late_as_a_whole_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(steps=2)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            rig.ticks(4, reply=False)
            rig.executor.run_next()
        rig.ticks(1, reply=False)
    assert rig.loop.statistics.applied == 0
    assert [record.message[:15] for record in caplog.records] == ["a chunk arrived"]


def test_transient_errors_hold_back_off_and_recover() -> None:
    rig = Rig()
    rig.policy.error = Disconnected("gone")
    rig.ticks(60)
    statistics = rig.loop.statistics
    assert set(rig.robot.log) == {"hold"}
    assert 4 < statistics.requests < 12, "asks again, ever less often"
    assert statistics.last_error == "gone"
    rig.policy.error = None
    rig.ticks(20)
    assert rig.robot.log[-1] != "hold"
    assert rig.loop.statistics.replies > 0


def test_an_overloaded_server_is_waited_for() -> None:
    rig = Rig()
    rig.policy.error = problem(503)
    rig.ticks(5)
    assert rig.loop.statistics.failures > 0


def test_a_refusal_that_repeats_for_ever_holds_and_raises() -> None:
    rig = Rig()
    rig.policy.error = problem(422)
    with pytest.raises(ServerProblem, match="because"):
        rig.ticks(3)
    assert rig.robot.log[-1] == "hold"


def test_a_programming_error_in_the_policy_is_not_swallowed() -> None:
    rig = Rig()
    rig.policy.error = KeyError("bug")
    with pytest.raises(KeyError):
        rig.ticks(3)


def test_a_chunk_of_another_rate_is_refused_with_the_rate_to_use() -> None:
    rig = Rig(dt_s=0.05)
    with pytest.raises(ValueError, match="rate_hz=20"):
        rig.ticks(3)


@pytest.mark.parametrize("rate_hz", [0, -10])
def test_a_rate_that_is_none_is_refused(rate_hz: float) -> None:
    with pytest.raises(ValueError, match=f"rate_hz must be positive, got {rate_hz}"):
        ControlLoop(FakeRobot(), FakePolicy(), rate_hz=rate_hz)


def test_counts_changes_of_w() -> None:
    rig = Rig()
    rig.ticks(10)
    rig.policy.version = 1
    rig.ticks(10)
    statistics = rig.loop.statistics
    assert (statistics.swaps, statistics.w_version) == (1, 1)


def test_every_request_carries_the_next_sequence_number() -> None:
    rig = Rig()
    rig.ticks(20)
    assert rig.policy.sequences == list(range(1, len(rig.policy.sequences) + 1))


def test_a_request_carries_the_last_action_for_the_servers_limit_on_steps() -> None:
    rig = Rig()
    rig.ticks(3)
    assert rig.policy.previous[0] is None
    assert rig.policy.previous[-1] == rig.robot.log[1]
    rig.loop.reset()
    rig.ticks(1)
    assert rig.policy.previous[-1] is None


def test_before_the_first_command_a_request_carries_the_pose_that_is_held() -> None:
    rig = Rig(held=np.array([7.0], np.float32))
    rig.ticks(3)
    assert (rig.policy.previous[0], rig.policy.previous[-1]) == (7.0, rig.robot.log[1])
    rig.loop.reset(held=np.array([8.0], np.float32))
    rig.ticks(1)
    assert rig.policy.previous[-1] == 8.0


def test_what_is_held_meanwhile_stays_the_last_command() -> None:
    rig = Rig(held=np.array([7.0], np.float32))
    rig.policy.error = Disconnected("gone")
    rig.ticks(8)
    assert set(rig.robot.log) == {"hold"}
    assert len(rig.policy.previous) > 1
    assert {float(action[0]) for action in rig.policy.previous} == {7.0}


def test_reset_forgets_the_plan_and_the_reply_in_flight() -> None:
    rig = Rig(steps=8)
    rig.ticks(3)
    rig.loop.tick()
    rig.loop.reset()
    rig.clock.advance(0.1)
    rig.robot.log.clear()
    rig.ticks(1, reply=False)
    assert rig.robot.log == ["hold"]


def test_run_keeps_the_rate_and_ends_with_a_hold() -> None:
    rig = Rig()
    statistics = rig.loop.run(ticks=5)
    assert statistics.ticks == 5
    assert rig.clock.now_s() == pytest.approx(0.4)
    assert rig.robot.log[-1] == "hold"


def test_a_slow_robot_skips_ticks_instead_of_bursting() -> None:
    rig = Rig(steps=50)
    rig.robot = FakeRobot(work=lambda: rig.clock.advance(0.25))
    loop = ControlLoop(rig.robot, rig.policy, rate_hz=10, clock=rig.clock, executor=rig.executor)
    loop.run(ticks=1)
    rig.executor.run_next()
    statistics = loop.run(ticks=4)
    assert statistics.overruns >= 4
    assert min(rig.clock.sleeps_s) <= 0.1
    executed = [entry for entry in rig.robot.log if entry != "hold"]
    assert len(executed) == 4
    assert np.all(np.diff(executed) >= 2), "the steps in between are dropped, not squeezed in"


def test_run_stops_when_told() -> None:
    rig = Rig()
    statistics = rig.loop.run(until=lambda: len(rig.robot.log) >= 3)
    assert statistics.ticks == 3


def test_run_holds_when_the_robot_fails() -> None:
    rig = Rig()
    rig.robot.observe = lambda: (_ for _ in ()).throw(OSError("camera gone"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="camera gone"):
        rig.loop.run(ticks=3)
    assert rig.robot.log == ["hold"]


def test_leaving_the_context_holds_and_lets_go_of_the_thread() -> None:
    rig = Rig()
    with rig.loop:
        pass
    assert rig.robot.log == ["hold"]
    assert rig.executor.is_shut_down


def test_the_default_executor_asks_in_another_thread() -> None:
    clock = FakeClock()
    robot, policy = FakeRobot(), FakePolicy()
    with ControlLoop(robot, policy, rate_hz=10, clock=clock) as loop:
        loop.tick()
        assert loop._pending is not None
        loop._pending.result(timeout=30)
        clock.advance(0.1)
        loop.tick()
    assert robot.log[:2] == ["hold", 1.0]


def rows(continuation: Continuation | None) -> list[float]:
    assert continuation is not None
    return continuation.actions[:, 0].tolist()


def test_without_real_time_chunking_nothing_is_continued() -> None:
    rig = Rig(steps=8)
    rig.ticks(20)
    assert set(rig.policy.continuations) == {None}
    assert rig.loop.statistics.continued == 0


def test_a_request_carries_the_steps_left_from_its_own_moment_on() -> None:
    rig = Rig(steps=8, real_time=RealTimeChunking())
    rig.ticks(7)
    first, second = rig.policy.continuations
    assert first is None, "there is nothing to continue yet"
    # Steps 1 to 4 have been executed; 3 are left, and step 5 is executed in the tick that asks.
    assert rows(second) == [5.0, 6.0, 7.0]
    assert rig.robot.log[-2:] == [5.0, 1.0]
    assert second is not None
    assert second.execution_horizon is None
    assert rig.loop.statistics.continued == 1


def test_the_delay_sent_is_the_largest_recent_one_and_the_first_does_not_count() -> None:
    rig = Rig(steps=12, real_time=RealTimeChunking(least_overlap=0))
    rig.rounds([6, 1, 3, 1, 1])
    rig.ticks(9, reply=False)
    rig.executor.run_next()
    sent = [c.inference_delay for c in rig.policy.continuations if c is not None]
    # The first reply is slow for being the first: it is believed only until there is another.
    assert sent == [6, 1, 3, 3, 3]
    assert rig.loop.statistics.delay_steps == 3


def test_a_delay_longer_than_what_is_left_freezes_what_is_left() -> None:
    rig = Rig(steps=12, real_time=RealTimeChunking(margin=9, least_overlap=0))
    rig.rounds([1, 1, 1])
    continued = [c for c in rig.policy.continuations if c is not None]
    assert continued
    assert all(c.inference_delay == len(c.actions) for c in continued)


@pytest.mark.parametrize(("least", "is_continued"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_chunk_is_not_tied_to_one_that_is_over_when_it_takes_over(
    least: int, is_continued: bool
) -> None:
    rig = Rig(steps=8, real_time=RealTimeChunking(least_overlap=least))
    rig.ticks(7)
    # Three steps are left, of which one will have been executed.
    assert (rig.policy.continuations[1] is not None) == is_continued
    assert rig.loop.statistics.continued == is_continued


def test_a_reply_later_than_estimated_is_counted() -> None:
    rig = Rig(steps=12, real_time=RealTimeChunking())
    rig.rounds([1, 1, 1, 2, 2])
    assert rig.loop.statistics.late_takeovers == 1


def test_an_execution_horizon_makes_the_loop_ask_while_so_many_steps_are_left() -> None:
    rig = Rig(steps=12, real_time=RealTimeChunking(execution_horizon=6))
    rig.ticks(8)
    (_, second) = rig.policy.continuations
    assert len(rows(second)) == 6
    assert second is not None
    assert (second.inference_delay, second.execution_horizon) == (1, 6)


def test_reset_leaves_nothing_to_continue() -> None:
    rig = Rig(steps=8, real_time=RealTimeChunking())
    rig.ticks(3)
    rig.loop.reset()
    rig.ticks(1)
    assert rig.policy.continuations[-1] is None


def test_a_real_time_option_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="execution_horizon must be positive"):
        RealTimeChunking(execution_horizon=0)
    with pytest.raises(ValueError, match="margin must not be negative"):
        RealTimeChunking(margin=-1)
    with pytest.raises(ValueError, match="least_overlap must not be negative"):
        RealTimeChunking(least_overlap=-1)
