"""`/robots`: the robots that the server knows, and new ones that introduce themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response

from selfalign.data.spec import RobotSpec
from server.body import read_value, reply
from server.problems import ProblemError
from server.routes.info import describe_robot
from server.routes.openapi import problems, reply_body, request_body
from server.routes.query import KnownQueryRoute
from server.wire.messages import RobotList, RobotMessage, RobotReply
from server.wire.problems import MAKE_ROOM

if TYPE_CHECKING:
    from server.runtime import Runtime

_MAX_SPEC_BYTES = 2**18
_EXAMPLE: Final[dict[str, Any]] = {
    "name": "bench-arm",
    "rate_hz": 10.0,
    "cameras": [{"name": "front", "height": 96, "width": 96}],
    "state": [{"name": "joint_1", "unit": "rad", "low": -2.9, "high": 2.9}],
    "action": [{"name": "joint_1_delta", "unit": "rad", "low": -0.15, "high": 0.15}],
}
_TARGETS_EXAMPLE: Final[dict[str, Any]] = _EXAMPLE | {
    "name": "bench-arm-by-position",
    "action": [{"name": "tool_x", "unit": "m", "low": 0.2, "high": 0.8}],
    "max_step": [0.04],
    "targets": ["tool_x"],
}

router = APIRouter(tags=["robots"], route_class=KnownQueryRoute)


@router.get(
    "/robots",
    operation_id="list_robots",
    summary="The robots that the server knows",
    response_class=Response,
    responses={200: reply_body(RobotList, "All robots, and which one is the default")},
)
async def list_robots(request: Request) -> Response:
    """Every robot with its spec and its active W."""
    runtime: Runtime = request.app.state.runtime
    robots = [describe_robot(runtime, spec) for spec in runtime.robots.values()]
    return reply(request, {"default": runtime.default_robot, "robots": robots})


@router.get(
    "/robots/{robot}",
    operation_id="get_robot",
    summary="One robot",
    response_class=Response,
    responses={200: reply_body(RobotReply, "The robot"), **problems("unknown-robot")},
)
async def get_robot(request: Request, robot: str) -> Response:
    """The spec and the active W of one robot."""
    runtime: Runtime = request.app.state.runtime
    return reply(request, describe_robot(runtime, runtime.spec(robot)))


@router.post(
    "/robots",
    operation_id="add_robot",
    summary="Introduce a robot by its spec",
    status_code=201,
    response_class=Response,
    openapi_extra={
        "requestBody": request_body(
            RobotMessage, commanded_by_changes=_EXAMPLE, commanded_by_targets=_TARGETS_EXAMPLE
        )
    },
    responses={
        200: reply_body(RobotReply, "The robot was known with this very spec"),
        201: reply_body(RobotReply, "The robot is new; it starts with the base W"),
        **problems(
            "bad-message",
            "robot-exists",
            "body-too-large",
            "unsupported-media-type",
            "bad-spec",
            "store-full",
        ),
    },
)
async def add_robot(request: Request) -> Response:
    """Serve a robot from now on, also after a restart. Its lineage of W starts at the base.

    Repeating the same spec changes nothing; another spec under a known name is refused.
    """
    runtime: Runtime = request.app.state.runtime
    spec = RobotSpec.from_mapping(await read_value(request, _MAX_SPEC_BYTES))
    try:
        is_new = await asyncio.to_thread(runtime.add_robot, spec)
    except OSError as error:
        raise ProblemError(
            "store-full",
            f"the disk refused to keep robot {spec.name!r} ({error.strerror or error}); send "
            f"it again once there is room. {MAKE_ROOM}",
        ) from error
    status = 201 if is_new else 200
    return reply(request, describe_robot(runtime, spec), status=status)
