"""From the bytes of a request to a call of the engine, and from its result to a reply."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from selfalign.data.continuation import Continuation
from selfalign.data.observation import Observation
from server.body import Format, parse
from server.dialects import Dialect, decode_images, dialect_of, is_foreign, to_native
from server.engine import ActCall, ActResult
from server.wire.arrays import json_numpy
from server.wire.messages import ActRequest, read_request
from server.wire.problems import WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selfalign.data.spec import RobotSpec
    from server.runtime import Runtime


@final
@dataclass
class ActMessage:
    """One request to `/act`, on its way through the engine.

    `read` runs where the answer is computed; after it the other attributes say how to answer.
    `reply` sets `timing_ms`, which is for the metrics as well.

    Args:
        runtime: the running server.
        body: the message.
        body_format: how it is written.
        robot: the robot that the connection speaks for; the message may name another.
    """

    runtime: Runtime
    body: bytes
    body_format: Format
    robot: str | None = None
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    dialect: Dialect = "native"
    spec: RobotSpec | None = None
    observed_at_s: float | None = None
    observation_seq: int | None = None
    timing_ms: dict[str, float] | None = None

    def read(self) -> ActCall:
        """The call of the engine that this message asks for.

        Raises:
            WireError, UnknownRobot: it asks for none.
        """
        value = parse(self.body, self.body_format)
        if not isinstance(value, dict):
            raise WireError("bad-message", f"expected a map of fields, got {type(value).__name__}")
        if is_foreign(value):
            self.dialect = dialect_of(value)
            value = to_native(value, self.runtime.spec(robot_named(value) or self.robot))
        request = read_request(ActRequest, value)
        self.spec = self.runtime.spec(request.robot or self.robot)
        self.observed_at_s = request.observed_at_s
        self.observation_seq = request.observation_seq
        return call_of(request, self.spec)

    def reply(self, result: ActResult, reply_format: Format) -> Any:
        """The answer, in the shape that this kind of client expects."""
        self.timing_ms = timing_of(result, self.arrived_ns)
        if self.dialect == "openvla":
            return result.actions[0] if reply_format == "msgpack" else json_numpy(result.actions[0])
        if self.dialect == "oft":
            return list(result.actions)
        if self.dialect == "xvla":
            return {"action": result.actions.tolist()}
        assert self.spec is not None
        reply: dict[str, Any] = {
            "actions": result.actions if reply_format == "msgpack" else result.actions.tolist(),
            "robot": self.spec.name,
            "w_version": result.version,
            "w_sha256": result.sha256,
            "base_sha256": self.runtime.registry.base_sha256,
            "dt_s": 1.0 / self.spec.rate_hz,
            "clamped_dims": result.clamped_dims,
            "timing": self.timing_ms,
        }
        if self.observed_at_s is not None:
            reply["observed_at_s"] = self.observed_at_s
        if self.observation_seq is not None:
            reply["observation_seq"] = self.observation_seq
        return reply


def timing_of(result: ActResult, arrived_ns: int) -> dict[str, float]:
    """The stages of an answer [ms], as `Timing` of the wire; the total counts from `arrived_ns`."""
    stages = result.timing
    return {
        "queue_ms": stages.queue_ms,
        "encode_ms": stages.encode_ms,
        "inference_ms": stages.inference_ms,
        "safety_ms": stages.safety_ms,
        "total_ms": (time.perf_counter_ns() - arrived_ns) * 1e-6,
    }


def robot_named(value: Mapping[str, Any]) -> str | None:
    """The robot that a message names, if it does."""
    name = value.get("robot")
    return name if isinstance(name, str) else None


def call_of(request: ActRequest, spec: RobotSpec) -> ActCall:
    """The call of the engine for a request that has been read.

    Raises:
        WireError: `bad-image`.
    """
    instruction = spec.default_instruction if request.instruction is None else request.instruction
    observation = Observation(
        images=decode_images(request.images, spec), state=request.state, instruction=instruction
    )
    return ActCall(
        robot=spec.name,
        observation=observation,
        pin=request.w_version,
        seed=request.seed,
        previous_action=request.previous_action,
        continuation=continuation_of(request),
    )


def continuation_of(request: ActRequest) -> Continuation | None:
    """The chunk that the answer has to continue, if the request has one."""
    actions, delay = request.previous_actions, request.inference_delay
    if actions is None or delay is None:
        return None
    until = len(actions) if request.execution_horizon is None else request.execution_horizon
    return Continuation(actions, delay, min(until, len(actions)))
