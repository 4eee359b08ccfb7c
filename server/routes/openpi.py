"""The websocket `/`: the openpi protocol, so that an unmodified openpi client can drive a robot.

On connect one binary frame with the metadata; then binary observation in, binary actions out, one
at a time. An error is one text frame, then close 1011. See `docs/protocols.md`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from server.act_call import call_of, robot_named, timing_of
from server.body import too_large
from server.dialects import to_native
from server.direct_line import receive_frame
from server.problems import problem_of
from server.wire.codec import pack, unpack
from server.wire.messages import ActRequest, read_request
from server.wire.problems import WireError

if TYPE_CHECKING:
    from selfalign.data.spec import RobotSpec
    from server.engine import ActCall, ActResult
    from server.runtime import Runtime

_INTERNAL_ERROR = 1011
_CLOSE_REASON = "Internal server error. The cause is in the previous frame."
_RESET_REPLY = "reset successful"

router = APIRouter()


@router.websocket("/")
async def openpi(websocket: WebSocket) -> None:
    """Serve one openpi client; `?robot=` picks a robot other than the default one."""
    runtime: Runtime = websocket.app.state.runtime
    await websocket.accept()
    try:
        spec = runtime.spec(websocket.query_params.get("robot"))
        await websocket.send_bytes(pack(metadata(runtime, spec)))
        await _converse(websocket, runtime, spec)
    except WebSocketDisconnect:
        return
    except Exception as error:  # noqa: BLE001 - the protocol's own way to report any error
        found = problem_of(error)
        runtime.metrics.count_act(found.status, "openpi")
        # Who sent what was wrong may have gone.
        with suppress(WebSocketDisconnect, RuntimeError):
            await websocket.send_text(f"{found.code}: {found.detail}")
            await websocket.close(_INTERNAL_ERROR, _CLOSE_REASON)


def metadata(runtime: Runtime, spec: RobotSpec) -> dict[str, Any]:
    """What the client is told first. The upper half is ours, the lower half RoboArena's."""
    first = spec.cameras[0]
    return {
        "server": "selfalign",
        "robot": spec.name,
        "cameras": [camera.name for camera in spec.cameras],
        "state": [dimension.name for dimension in spec.state],
        "action": [dimension.name for dimension in spec.action],
        "targets": list(spec.targets),
        "rate_hz": spec.rate_hz,
        "action_horizon": runtime.policy.config.horizon,
        "w_version": runtime.registry.active(spec.name).version,
        "base_sha256": runtime.registry.base_sha256,
        "image_resolution": [first.height, first.width],
        "needs_wrist_camera": len(spec.cameras) > 1,
        "n_external_cameras": 1,
        "needs_stereo_camera": False,
        "needs_session_id": False,
        "action_space": "robot_spec",
    }


class _ResetAsked(Exception):
    """The client sent `{"endpoint": "reset"}`."""


async def _converse(websocket: WebSocket, runtime: Runtime, spec: RobotSpec) -> None:
    previous_total_ms: float | None = None
    while True:
        body, body_format = await receive_frame(websocket)
        start_ns = time.perf_counter_ns()
        if body_format != "msgpack":
            raise WireError("bad-message", "expected a binary frame (msgpack), got a text frame")
        try:
            result = await runtime.engine.act(partial(_read, body, runtime, spec))
        except _ResetAsked:
            await websocket.send_text(_RESET_REPLY)
            continue
        timing_ms = timing_of(result, start_ns)
        await websocket.send_bytes(pack(_reply(result, timing_ms["total_ms"], previous_total_ms)))
        runtime.metrics.count_act(200, "openpi", timing_ms)
        previous_total_ms = (time.perf_counter_ns() - start_ns) * 1e-6


def _read(body: bytes, runtime: Runtime, spec: RobotSpec) -> ActCall:
    """The call that an openpi message asks for. Runs where it is answered."""
    if len(body) > runtime.settings.max_body_bytes:
        raise too_large(len(body), runtime.settings.max_body_bytes)
    value = unpack(body)
    if not isinstance(value, dict):
        raise WireError("bad-message", f"expected a map of fields, got {type(value).__name__}")
    endpoint = value.pop("endpoint", "infer")
    if endpoint == "reset":
        raise _ResetAsked
    if endpoint != "infer":
        raise WireError("bad-message", f"endpoint {endpoint!r:.40} is neither infer nor reset")
    named = robot_named(value)
    spec = runtime.spec(named) if named else spec
    return call_of(read_request(ActRequest, to_native(value, spec)), spec)


def _reply(result: ActResult, infer_ms: float, previous_total_ms: float | None) -> dict[str, Any]:
    timing = {"infer_ms": infer_ms}
    if previous_total_ms is not None:
        timing["prev_total_ms"] = previous_total_ms
    return {
        "actions": result.actions,
        "policy_timing": {"infer_ms": result.timing.inference_ms},
        "server_timing": timing,
        "w_version": result.version,
        "w_sha256": result.sha256,
        "clamped_dims": result.clamped_dims,
    }
