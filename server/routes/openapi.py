"""What `/docs` shows of `/act` and of errors: schemas and examples."""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np

from server.wire.codec import JSON_MEDIA_TYPE, MSGPACK_MEDIA_TYPE
from server.wire.images import encode_png
from server.wire.messages import ActReply, ActRequest
from server.wire.problems import PROBLEM_MEDIA_TYPE, Problem, problem

# As large as the camera of the shipped robot `panda`, so that the examples can be sent as they are.
EXAMPLE_IMAGE: Final = base64.b64encode(encode_png(np.full((96, 96, 3), 128, np.uint8))).decode()
ACT_EXAMPLE: Final[dict[str, Any]] = {
    "robot": "panda",
    "images": {"front": EXAMPLE_IMAGE},
    "state": [0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.8, 0.08],
    "instruction": "touch the red cube",
    "observed_at_s": 12.5,
    "observation_seq": 42,
}
_REPLY_EXAMPLE: Final[dict[str, Any]] = {
    "actions": [[0.012, -0.004, 0.001, 0.08], [0.011, -0.004, 0.001, 0.08]],
    "robot": "panda",
    "w_version": 3,
    "w_sha256": "9f2c" + 60 * "0",
    "base_sha256": "41aa" + 60 * "0",
    "dt_s": 0.1,
    "observed_at_s": 12.5,
    "observation_seq": 42,
    "clamped_dims": [],
    "timing": {"queue_ms": 0.1, "encode_ms": 0.4, "inference_ms": 8.9, "total_ms": 9.6},
}


ACT_CONTINUED_EXAMPLE: Final[dict[str, Any]] = ACT_EXAMPLE | {
    "previous_action": [0.013, -0.004, 0.001, 0.08],
    "previous_actions": [[0.012, -0.004, 0.001, 0.08], [0.011, -0.004, 0.001, 0.08]],
    "inference_delay": 1,
    "execution_horizon": 2,
}
# Joint targets: the policy says how they change, and the answer goes on from the last command.
ACT_TARGETS_EXAMPLE: Final[dict[str, Any]] = ACT_EXAMPLE | {
    "robot": "panda_joints",
    "previous_action": [0.0, -0.28, 0.0, -2.18, 0.0, 2.01, 0.8, 0.08],
}


def schema_of(model: type[Any], *, mode: str = "validation") -> dict[str, Any]:
    """The JSON schema of a message, in one piece."""
    schema: dict[str, Any] = model.model_json_schema(mode=mode)
    definitions = schema.pop("$defs", {})
    inlined = _inline(schema, definitions)
    assert isinstance(inlined, dict)
    return inlined


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these problem codes."""
    replies: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        example = problem(code, "what was wrong, what was expected, what to do").model_dump()
        entry = replies.setdefault(
            example["status"],
            {
                "description": "",
                "content": {PROBLEM_MEDIA_TYPE: {"schema": schema_of(Problem), "examples": {}}},
            },
        )
        entry["description"] = "; ".join(filter(None, (entry["description"], code)))
        entry["content"][PROBLEM_MEDIA_TYPE]["examples"][code] = {"value": example}
    return replies


def request_body(
    model: type[Any], example: Any = None, **examples: dict[str, Any]
) -> dict[str, Any]:
    """The `requestBody` of a route that reads JSON or msgpack by itself; one example or more."""
    content: dict[str, Any] = {"schema": schema_of(model)}
    if example is not None:
        content["example"] = example
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {
        "required": True,
        "content": {JSON_MEDIA_TYPE: content, MSGPACK_MEDIA_TYPE: {"schema": content["schema"]}},
    }


def reply_body(model: type[Any], description: str, example: Any = None) -> dict[str, Any]:
    """One entry of the `responses` of a route that writes JSON or msgpack by itself."""
    schema = schema_of(model, mode="serialization")
    content = {"schema": schema, **({} if example is None else {"example": example})}
    return {
        "description": description,
        "content": {JSON_MEDIA_TYPE: content, MSGPACK_MEDIA_TYPE: {"schema": schema}},
    }


def without_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document without the replies that FastAPI adds: ours are problems."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            replies = operation["responses"]
            if "HTTPValidationError" in str(replies.get("422")):
                del replies["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema.get("components", {}).get("schemas", {}).pop(name, None)
    return schema


def _inline(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            return _inline(definitions[reference.rpartition("/")[2]], definitions)
        return {key: _inline(item, definitions) for key, item in value.items()}
    if isinstance(value, list):
        return [_inline(item, definitions) for item in value]
    return value


ACT_BODY: Final = request_body(
    ActRequest,
    observation=ACT_EXAMPLE,
    continuing_a_chunk=ACT_CONTINUED_EXAMPLE,
    going_on_from_the_last_command=ACT_TARGETS_EXAMPLE,
)
ACT_REPLIES: Final[dict[int | str, dict[str, Any]]] = {
    200: reply_body(ActReply, "A chunk of actions", _REPLY_EXAMPLE),
    **problems(
        "bad-message",
        "unknown-robot",
        "unknown-version",
        "w-not-resident",
        "wrong-spec",
        "body-too-large",
        "unsupported-media-type",
        "bad-observation",
        "bad-image",
        "bad-request",
        "non-finite-action",
        "overloaded",
    ),
}
