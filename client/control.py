"""Drive a robot at a fixed rate from chunks that arrive whenever the network lets them.

One tick: collect a finished reply, ask for the next chunk if the queue is about to run out, then
execute the step that belongs to now, or hold. The network is only ever waited for in another
thread, so a slow or dead server costs steps, never a tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Protocol, Self, final

import numpy as np
from numpy.typing import NDArray

from client.action_queue import ActionQueue
from client.chunk import ActionChunk, Continuation, Observation
from client.clock import Clock, MonotonicClock
from client.errors import ClientError, ServerProblem
from client.real_time import DelayEstimate, RealTimeChunking, continuation_of
from client.tally import LoopStatistics, Tally

logger = logging.getLogger(__name__)

__all__ = ["ControlLoop", "LoopStatistics", "Policy", "RealTimeChunking", "Robot"]


class Robot(Protocol):
    """What the loop needs of a robot. All three are called from the thread that runs the loop."""

    def observe(self) -> Observation:
        """Read the newest images and state; must not wait for a camera longer than a tick."""

    def apply(self, action: NDArray[np.float32]) -> None:
        """Execute one command [A] in the units of the robot's spec."""

    def hold(self) -> None:
        """Stay: repeat the last absolute command, or send a zero delta. May be called often."""


class Policy(Protocol):
    """What answers with chunks; `RobotClient` is one."""

    def act(
        self,
        observation: Observation,
        *,
        observed_at_s: float,
        observation_seq: int,
        previous_action: NDArray[np.float32] | None,
        continuation: Continuation | None,
    ) -> ActionChunk:
        """Ask for a chunk. Called from the loop's own background thread, one call at a time."""


@final
class ControlLoop:
    """A robot, a policy and a rate. Use it as a context manager, from one thread.

    Args:
        robot: What observes and moves.
        policy: What answers with chunks.
        rate_hz: Steps a second, those of the robot's spec.
        real_time: Have new chunks continue the one being executed; without it they take over
            as they come, and the command may jump there.
        held: The command [A] that keeps the robot where it stands. A robot whose spec names
            targets needs it, unless its state measures them: until the loop has sent a command
            this is the last one.
        max_step: That of the robot's spec, an entry for each action, None where it is not limited.
            A chunk that takes over late goes on from an older command than the last one; no such
            jump reaches the robot then.
        clock: Where the time comes from.
        executor: What asks the policy; a thread of its own if None.

    Raises:
        ServerProblem: From `run` or `tick`, after `hold`, for a refusal that repeats for ever (a
            bad observation, an unknown robot). Silence and transient errors only make it hold.
    """

    def __init__(
        self,
        robot: Robot,
        policy: Policy,
        *,
        rate_hz: float,
        real_time: RealTimeChunking | None = None,
        held: NDArray[np.float32] | None = None,
        max_step: Sequence[float | None] | None = None,
        clock: Clock | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._robot, self._policy = robot, policy
        self._clock: Clock = clock or MonotonicClock()
        self._queue = ActionQueue(rate_hz=rate_hz, clock=self._clock)
        self._period_s = 1.0 / rate_hz
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="selfalign-act")
        self._real_time = real_time
        self._delay = DelayEstimate()
        self._horizon = 0
        self._frozen: int | None = None
        self._pending: Future[ActionChunk] | None = None
        self._ask_again_at_s = -np.inf
        self._sequence = 0
        self._previous_action = held
        self._max_step = _largest_steps(max_step)
        self._tally = Tally()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def statistics(self) -> LoopStatistics:
        """What has happened so far."""
        return self._tally.report(dropped=self._queue.dropped, delay_steps=self._delay.steps)

    def close(self) -> None:
        """Hold the robot and let go of the background thread. A call in flight is not awaited."""
        self._robot.hold()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def reset(self, *, held: NDArray[np.float32] | None = None) -> None:
        """Forget all planned steps and any reply in flight, as at the start of an episode.

        Args:
            held: As for the loop: the command that keeps the robot where it stands now.
        """
        self._queue.clear()
        self._previous_action = held
        self._ask_again_at_s = -np.inf

    def run(
        self,
        *,
        ticks: int | None = None,
        until: Callable[[], bool] | None = None,
    ) -> LoopStatistics:
        """Tick at the fixed rate, for `ticks` ticks or until `until()` is true; else for ever.

        Ticks whose moment has passed are skipped, never made up for in a burst.
        """
        due_s = self._clock.now_s()
        done = 0
        try:
            while (ticks is None or done < ticks) and not (until is not None and until()):
                self._clock.sleep_s(due_s - self._clock.now_s())
                self.tick()
                done += 1
                due_s += self._period_s
                behind = int((self._clock.now_s() - due_s) // self._period_s)
                if behind > 0:
                    self._tally.overruns += behind
                    due_s += behind * self._period_s
        finally:
            self._robot.hold()
        return self.statistics

    def tick(self) -> None:
        """One control period. Never waits for the network."""
        self._collect()
        if self._should_ask():
            self._ask()
        action = self._queue.pop()
        self._tally.ticks += 1
        if action is None:
            self._tally.held += 1
            self._robot.hold()
        else:
            self._tally.applied += 1
            action = self._within_step(action)
            self._robot.apply(action)
            self._previous_action = action

    def _within_step(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        last, step = self._previous_action, self._max_step
        return action if last is None or step is None else np.clip(action, last - step, last + step)

    def _should_ask(self) -> bool:
        if self._pending is not None or self._clock.now_s() < self._ask_again_at_s:
            return False
        # The reply must be here when the last step has been executed: the slowest recent round
        # trip, and one period because replies are only collected at a tick.
        least_s = self._tally.slowest_s + 2 * self._period_s
        if self._real_time is not None and self._real_time.execution_horizon is not None:
            # Half a period for the jitter of ticks: so many steps, not one fewer.
            steps = self._real_time.execution_horizon + 0.5
            least_s = max(least_s, steps * self._period_s)
        return self._queue.remaining_s <= least_s

    def _ask(self) -> None:
        observed_at_s = self._clock.now_s()
        continuation = self._continuation()
        observation = self._robot.observe()
        self._sequence += 1
        self._tally.requests += 1
        self._pending = self._executor.submit(
            self._policy.act,
            observation,
            observed_at_s=observed_at_s,
            observation_seq=self._sequence,
            previous_action=self._previous_action,
            continuation=continuation,
        )

    def _continuation(self) -> Continuation | None:
        self._frozen = None
        if self._real_time is None:
            return None
        found = continuation_of(
            self._queue.remaining(), self._delay.steps, self._horizon, self._real_time
        )
        if found is not None:
            self._frozen = found.inference_delay
            self._tally.continued += 1
        return found

    def _collect(self) -> None:
        if self._pending is None or not self._pending.done():
            return
        finished, self._pending = self._pending, None
        try:
            chunk = finished.result()
        except ServerProblem as problem:
            if not problem.is_transient:
                self._robot.hold()
                raise
            self._failed(problem)
        except ClientError as error:
            self._failed(error)
        else:
            self._accept(chunk)

    def _accept(self, chunk: ActionChunk) -> None:
        if abs(chunk.dt_s - self._period_s) > 0.05 * self._period_s:
            raise ValueError(
                f"the server's steps are {chunk.dt_s:.4g} s apart, this loop ticks every "
                f"{self._period_s:.4g} s; run it with rate_hz={1 / chunk.dt_s:.4g}"
            )
        latency_s = self._clock.now_s() - chunk.observed_at_s
        self._tally.replied(latency_s=latency_s, w_version=chunk.w_version)
        self._horizon = len(chunk.actions)
        delay = self._delay.add(latency_s, self._period_s)
        self._tally.late_takeovers += self._frozen is not None and delay > self._frozen
        if self._queue.push(chunk) == 0 and self._tally.all_late == 0:
            self._tally.all_late += 1
            logger.warning(
                "a chunk arrived %.3f s after its observation, all its %d steps of %.3f s are late:"
                " the robot holds; use a faster policy, a longer chunk or a lower rate",
                latency_s,
                len(chunk.actions),
                chunk.dt_s,
            )

    def _failed(self, error: ClientError) -> None:
        self._tally.failed(str(error))
        wait_s = min(self._period_s * 2 ** min(self._tally.failures_in_a_row, 10), 1.0)
        self._ask_again_at_s = self._clock.now_s() + wait_s
        if self._tally.failures_in_a_row == 1:
            logger.warning("no chunk, the robot holds: %s", error)


def _largest_steps(max_step: Sequence[float | None] | None) -> NDArray[np.float32] | None:
    if max_step is None:
        return None
    return np.array([np.inf if step is None else step for step in max_step], np.float32)
