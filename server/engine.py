"""The engine: observations in, safe chunks out, one at a time.

Everything that computes (reading the message, decoding images, the policy, the safety stage) runs
in the one inference thread, or, where answers are short, on the event loop. A request takes the
active W once, so a chunk comes from one W, whatever is swapped meanwhile.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np

from selfalign.data.continuation import check_continuation
from selfalign.data.observation import Observation, check_observation
from selfalign.data.target_steps import TargetSteps
from server.inference_thread import InferenceThread, Overloaded
from server.registry_errors import UnknownRobot
from server.safety import ActionLimits, NonFiniteAction, SafeChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from selfalign.data.continuation import Continuation
    from selfalign.data.spec import Dimension, RobotSpec
    from server.bundle import Bundle
    from server.metrics import Metrics
    from server.registry import Registry


class RobotPolicy(Protocol):
    """The policy as one robot sees it: `selfalign.align.robot_io.RobotIO`, or a fake in tests."""

    @property
    def spec(self) -> RobotSpec:
        """The robot."""

    @property
    def horizon(self) -> int:
        """Steps H of a chunk."""

    def act(
        self,
        observations: list[Observation],
        w: Any,
        *,
        seed: int | None,
        continuations: Sequence[Continuation | None],
        last_commands: Sequence[NDArray[np.floating] | None],
    ) -> NDArray[np.float32]:
        """Chunks `[B, H, A]` in the units of the spec."""


@final
@dataclass(frozen=True, eq=False)
class ActCall:
    """One observation to answer.

    Attributes:
        robot: which robot.
        observation: what it senses.
        pin: the version of W to use; the active one if None.
        seed: of the flow noise; unseeded if None.
        previous_action: `[A]`, the command before this chunk, if known; targets need it.
        continuation: what is left of the chunk being executed, if the new one is to continue it.
    """

    robot: str
    observation: Observation
    pin: int | None = None
    seed: int | None = None
    previous_action: NDArray[np.float32] | None = None
    continuation: Continuation | None = None


@final
@dataclass(frozen=True)
class ActTiming:
    """Where the time of one answer went, one stage after the other [ms].

    Attributes:
        queue_ms: until it was taken up.
        encode_ms: the message read, images decoded, everything checked against the spec.
        inference_ms: tensors made, the policy evaluated, its chunk in the robot's units.
        safety_ms: limits.
    """

    queue_ms: float
    encode_ms: float
    inference_ms: float
    safety_ms: float


@final
@dataclass(frozen=True, eq=False)
class ActResult:
    """A safe chunk and the W that made it."""

    actions: NDArray[np.float32]
    version: int
    sha256: str
    clamped_dims: list[str]
    timing: ActTiming


@final
class _Seat:
    """One robot at the engine."""

    def __init__(self, policy: RobotPolicy) -> None:
        self.policy = policy
        self.limits = ActionLimits(policy.spec)
        self._targets = TargetSteps.of(policy.spec)

    def last_command(self, call: ActCall) -> NDArray[np.floating] | None:
        """The command `[A]` before the chunk of a call, NaN where it is not known; None: nowhere.

        Raises:
            WireError: what was sent as the command is none.
            ObservationMismatch: an action is a target, and the command is not known.
        """
        sent = self.limits.checked(call.previous_action)
        if self._targets is None:
            return sent
        rest = None if call.continuation is None else call.continuation.actions
        return self._targets.last(call.observation.state, sent, rest)


@final
class Engine:
    """Answers observations with the policy.

    Args:
        registry: where the active W of each robot is read.
        metrics: where latencies and safety events are counted.
        queue_depth: how many observations may wait; more are refused at once.
        prepare_thread: called once in each thread that answers, before its first answer.
    """

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        *,
        queue_depth: int,
        prepare_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._seats: dict[str, _Seat] = {}
        self._thread = InferenceThread(queue_depth, prepare_thread)
        metrics.act_in_flight.set_function(lambda: self.in_flight)

    @property
    def in_flight(self) -> int:
        """Observations waiting or being answered. Any thread may read it."""
        return self._thread.in_flight

    def add_robot(self, policy: RobotPolicy) -> None:
        """Serve a robot, or serve it with another spec from the next observation on."""
        self._seats = {**self._seats, policy.spec.name: _Seat(policy)}

    def policy(self, robot: str) -> RobotPolicy:
        """The policy of a robot. Raises UnknownRobot."""
        return self._seat(robot).policy

    async def act(self, read: Callable[[], ActCall] | ActCall) -> ActResult:
        """Answer one observation.

        Args:
            read: the call, or a function that makes it; that runs where the answer is computed.

        Raises:
            Overloaded: the queue is full.
            NotReady: the engine is closed.
            SelfAlignError, WireError: the observation cannot be answered.
        """
        try:
            answer = self._thread.submit(self._answering(read))
        except Overloaded:
            self._metrics.act_queue_dropped.inc()
            raise
        return await answer

    def call(
        self, read: Callable[[], ActCall], done: Callable[[ActResult | Exception], None]
    ) -> None:
        """As `act`, for a function on the event loop: `done` is called there with the outcome.

        That may be before this returns.

        Raises:
            Overloaded, NotReady: at once; `done` is then not called.
        """
        try:
            self._thread.call(self._answering(read), done)
        except Overloaded:
            self._metrics.act_queue_dropped.inc()
            raise

    async def warm_up(self) -> None:
        """Answer one made-up observation for each robot, so that the first real one is not slow."""
        for robot, seat in self._seats.items():
            spec = seat.policy.spec
            blank, middle = blank_observation(spec), _middle(spec.action) if spec.targets else None
            await self.act(ActCall(robot, blank, seed=0, previous_action=middle))

    def let_loop_help(self, short_s: float) -> None:
        """Let the running event loop answer what is answered in less than `short_s`."""
        self._thread.let_loop_help(short_s)

    def close(self) -> None:
        """Finish what is being answered, refuse what waits, end the thread."""
        self._thread.close()

    def _seat(self, robot: str) -> _Seat:
        seat = self._seats.get(robot)
        if seat is None:
            raise UnknownRobot(robot, sorted(self._seats))
        return seat

    def _answering(self, read: Callable[[], ActCall] | ActCall) -> Callable[[], ActResult]:
        return partial(self._answer, read, time.perf_counter_ns())

    def _answer(self, read: Callable[[], ActCall] | ActCall, arrived_ns: int) -> ActResult:
        started_ns = time.perf_counter_ns()
        call = read if isinstance(read, ActCall) else read()
        bundle = self._bundle(call)
        seat = self._seat(call.robot)
        check_observation(call.observation, seat.policy.spec)
        if call.continuation is not None:
            check_continuation(call.continuation, seat.policy.spec, seat.policy.horizon)
        last = seat.last_command(call)
        encoded_ns = time.perf_counter_ns()
        chunk = seat.policy.act(
            [call.observation],
            bundle.w,
            seed=call.seed,
            continuations=[call.continuation],
            last_commands=[last],
        )[0]
        inferred_ns = time.perf_counter_ns()
        safe = self._make_safe(seat, chunk, last)
        timing = ActTiming(
            queue_ms=(started_ns - arrived_ns) * 1e-6,
            encode_ms=(encoded_ns - started_ns) * 1e-6,
            inference_ms=(inferred_ns - encoded_ns) * 1e-6,
            safety_ms=(time.perf_counter_ns() - inferred_ns) * 1e-6,
        )
        return ActResult(safe.actions, bundle.version, bundle.sha256, safe.clamped_dims, timing)

    def _bundle(self, call: ActCall) -> Bundle:
        # The only place where the active W is read: one chunk, one W.
        if call.pin is None:
            return self._registry.active(call.robot)
        return self._registry.get(call.robot, call.pin)

    def _make_safe(
        self, seat: _Seat, chunk: NDArray[np.float32], last: NDArray[np.floating] | None
    ) -> SafeChunk:
        try:
            safe = seat.limits.apply(chunk, last)
        except NonFiniteAction:
            self._metrics.safety_events.labels("non_finite").inc()
            raise
        if safe.limited:
            self._metrics.safety_events.labels("limited").inc()
        if safe.slowed:
            self._metrics.safety_events.labels("slowed").inc()
        return safe


def blank_observation(spec: RobotSpec) -> Observation:
    """Black images and the middle of the state: an observation that fits the spec."""
    images = {
        camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in spec.cameras
    }
    state = _middle(spec.state)
    return Observation(images=images, state=state, instruction=spec.default_instruction)


def _middle(dimensions: tuple[Dimension, ...]) -> NDArray[np.float32]:
    return np.array([(item.low + item.high) / 2 for item in dimensions], np.float32)
