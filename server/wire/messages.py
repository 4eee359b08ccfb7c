"""What is asked and answered on `/act`, `/play`, `/robots` and `/info`.

Requests refuse unknown fields; replies ignore them, so that an older client reads a newer server.
Images stay as they were sent: `server.wire.images.decode_image` turns them into arrays.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from server.wire.fields import Chunk, ImageValue, RobotName, Vector
from server.wire.problems import Problem, WireError
from server.wire.refusals import invalid_fields

RequestT = TypeVar("RequestT", bound="BaseModel")


class Request(BaseModel):
    """Base of what a client sends."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Reply(BaseModel):
    """Base of what a server answers."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", arbitrary_types_allowed=True, protected_namespaces=()
    )


# --- /act ---------------------------------------------------------------------------------------


class ActRequest(Request):
    """One observation; the answer is a chunk of actions."""

    robot: RobotName | None = Field(None, description="Which robot; the default robot if absent")
    images: dict[str, ImageValue] = Field(description="One image for each camera of the robot spec")
    state: Vector = Field(description="Proprioception in the units of the robot spec")
    instruction: str | None = Field(None, max_length=1000, description="What to do, in words")
    observed_at_s: float | None = Field(
        None, allow_inf_nan=False, description="The client's clock; comes back untouched"
    )
    observation_seq: int | None = Field(
        None, description="The client's count; comes back untouched"
    )
    w_version: int | None = Field(
        None, ge=0, description="Answer with this version of W, not the active one"
    )
    previous_action: Vector | None = Field(
        None,
        description="The last command sent, so that `max_step` also bounds the first of the chunk. "
        "A robot whose actions are `targets` must send it, unless its state measures them; before "
        "the first command, the pose that it holds",
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="Seed of the flow noise, for tests")
    previous_actions: Chunk | None = Field(
        None,
        description="Real-time chunking: what is left of the chunk being executed; the first row "
        "belongs to the moment of this observation",
    )
    inference_delay: int | None = Field(
        None,
        ge=0,
        description="How many rows of `previous_actions` will have been executed when the answer "
        "takes over; the answer begins with these",
    )
    execution_horizon: int | None = Field(
        None,
        ge=1,
        description="From this step on the answer need not follow `previous_actions`, up to it "
        "less and less; all their rows count if absent",
    )

    @model_validator(mode="after")
    def _continues_whole_or_not_at_all(self) -> Self:
        asked = self.inference_delay is not None or self.execution_horizon is not None
        if asked and self.previous_actions is None:
            raise ValueError(
                "inference_delay and execution_horizon need previous_actions, the steps that are "
                "left of the chunk being executed"
            )
        if self.previous_actions is not None and self.inference_delay is None:
            raise ValueError(
                "previous_actions need inference_delay: how many of them will have been executed "
                "when the answer takes over (0 if the robot waits)"
            )
        return self


class Timing(Reply):
    """Where the time went, in milliseconds: one stage after the other, and the whole."""

    queue_ms: float = Field(description="The whole message here, until its turn to be computed")
    encode_ms: float = Field(description="Message read, images decoded, checked against the spec")
    inference_ms: float = Field(
        description="Tensors made, the policy evaluated, its chunk in the units of the robot"
    )
    safety_ms: float = Field(0.0, description="Limits of the actions; older servers count it below")
    total_ms: float = Field(
        description="The whole message here, until the reply is written: the stages above, and "
        "handing the message over and the answer back"
    )


class ActReply(Reply):
    """A chunk of actions and which W made it."""

    actions: Chunk = Field(description="[steps][actions] in the units of the robot spec")
    robot: str
    w_version: int
    w_sha256: str
    base_sha256: str
    dt_s: float = Field(description="Time between two actions of the chunk")
    observed_at_s: float | None = None
    observation_seq: int | None = None
    clamped_dims: list[str] = Field(
        description="Actions that had to be limited somewhere in the chunk"
    )
    timing: Timing


# --- /play --------------------------------------------------------------------------------------


class PlayStep(Request):
    """What the robot saw and the action it then executed."""

    images: dict[str, ImageValue]
    state: Vector
    action: Vector = Field(description="The action executed, in the units of the robot spec")
    t_ns: int = Field(
        ge=0, lt=2**63, description="Time of the observation, the robot's monotonic clock"
    )
    instruction: str | None = Field(None, max_length=1000)


class PlayRequest(Request):
    """`POST /play`: some consecutive steps of one episode."""

    robot: RobotName | None = None
    episode: str | None = Field(
        None, max_length=80, description="The episode to continue; a new one if absent"
    )
    steps: list[PlayStep] = Field(max_length=1000)
    end: bool = Field(default=False, description="Seal the episode after these steps")
    meta: dict[str, Any] = Field(default_factory=dict, description="Kept with a new episode")


class PlayReply(Reply):
    """What of the episode has arrived and what is on disk."""

    episode: str
    received: int = Field(description="Steps of the episode received so far")
    durable: int = Field(description="Steps of the episode that survive a crash")
    sealed: bool


class PlayStart(Request):
    """Websocket `/play`: begin an episode."""

    type: Literal["start"]
    robot: RobotName | None = None
    meta: dict[str, Any] = Field(default_factory=dict)


class PlayStepMessage(PlayStep):
    """Websocket `/play`: one step."""

    type: Literal["step"]


class PlaySync(Request):
    """Websocket `/play`: ask for an acknowledgement."""

    type: Literal["sync"]


class PlayEnd(Request):
    """Websocket `/play`: seal the episode."""

    type: Literal["end"]


PlayMessage = Annotated[
    PlayStart | PlayStepMessage | PlaySync | PlayEnd, Field(discriminator="type")
]


class PlayStarted(Reply):
    """The episode has begun."""

    type: Literal["started"] = "started"
    episode: str


class PlayAck(Reply):
    """What of the episode has arrived and what is on disk."""

    type: Literal["ack"] = "ack"
    episode: str
    received: int
    durable: int


class PlaySealed(Reply):
    """The episode is complete and on disk."""

    type: Literal["sealed"] = "sealed"
    episode: str
    length: int


class PlayError(Reply):
    """A message was refused; the connection stays open."""

    type: Literal["error"] = "error"
    problem: Problem


PlayAnswer = Annotated[PlayStarted | PlayAck | PlaySealed | PlayError, Field(discriminator="type")]


# --- /robots ------------------------------------------------------------------------------------


class DimensionMessage(Request):
    """One number of a state or of an action."""

    name: str
    unit: str = ""
    low: float
    high: float


class CameraMessage(Request):
    """One camera."""

    name: str
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class RobotMessage(Request):
    """A robot spec: what a robot sends and what it takes."""

    name: RobotName
    rate_hz: float = Field(gt=0, description="How often the robot takes an action")
    cameras: list[CameraMessage]
    state: list[DimensionMessage]
    action: list[DimensionMessage]
    max_step: list[float | None] | None = Field(
        None, description="Largest change of each action between consecutive commands"
    )
    targets: list[str] = Field(
        default_factory=list,
        description="Names of the actions that are absolute targets: the policy sees their change "
        "since the last command, in units of `max_step`, which each needs",
    )
    default_instruction: str = ""
    kinematics: dict[str, Any] | None = Field(
        None, description="The arm as a serial chain of joints; see docs/data.md"
    )


class RobotReply(Reply):
    """A robot that the server knows."""

    robot: str
    digest: str = Field(description="sha256 of the spec")
    spec_sha256: str = Field(
        "",
        description="sha256 of what W depends on in the spec (all but `name`, "
        "`default_instruction` and steps of `max_step` that only limit); a W aligned for another "
        "one does not serve",
    )
    w_version: int
    w_sha256: str
    notice: str = Field("", description="What an operator should know of the W that serves")
    spec: dict[str, Any]


class RobotList(Reply):
    """`GET /robots`."""

    default: str
    robots: list[RobotReply]


# --- /info --------------------------------------------------------------------------------------


class ModelInfo(Reply):
    """The frozen model."""

    variant: str
    flavour: str
    base_sha256: str
    parameters: int
    w_parameters: int
    image_size: int
    horizon: int
    device: str


class InfoReply(Reply):
    """`GET /info`: what this server is and what it serves."""

    name: str = "selfalign"
    version: str
    model: ModelInfo
    default_robot: str
    robots: list[RobotReply]
    align_mode: str
    recorder: dict[str, Any] = Field(default_factory=dict, description="State of the recorder")
    align_worker: dict[str, Any] = Field(default_factory=dict, description="State of the worker")
    max_body_bytes: int
    uptime_s: float


_PLAY_MESSAGE: TypeAdapter[PlayStart | PlayStepMessage | PlaySync | PlayEnd] = TypeAdapter(
    PlayMessage
)
_PLAY_ANSWER: TypeAdapter[PlayStarted | PlayAck | PlaySealed | PlayError] = TypeAdapter(PlayAnswer)


def read_request(model: type[RequestT], value: object, *, code: str = "bad-request") -> RequestT:
    """A request from the plain value that a codec read.

    Args:
        model: the kind of request.
        value: what the codec read.
        code: the problem code of a field that is not valid.

    Raises:
        WireError: `bad-message` if it is not a map, else `code` with one entry for each bad field.
    """
    if not isinstance(value, dict):
        raise WireError(
            "bad-message", f"expected a map (object) of fields, got {type(value).__name__}"
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_fields(error, code=code, model=model) from None


def read_play_message(value: object) -> PlayStart | PlayStepMessage | PlaySync | PlayEnd:
    """A message of a client on the websocket `/play`.

    Raises:
        WireError: `bad-play-step` with one entry for each bad field.
    """
    try:
        return _PLAY_MESSAGE.validate_python(value)
    except ValidationError as error:
        raise invalid_fields(error, code="bad-play-step") from None


def read_play_answer(value: object) -> PlayStarted | PlayAck | PlaySealed | PlayError:
    """A message of the server on the websocket `/play`.

    Raises:
        WireError: `bad-message` if it is none of them.
    """
    try:
        return _PLAY_ANSWER.validate_python(value)
    except ValidationError as error:
        raise invalid_fields(error, code="bad-message") from None
