"""What stands in the ring between server and recorder: begin, step, flush and end of an episode.

Everything the recorder needs to go on after a crash is in these records, so that a recorder that
is started again only has to read on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import msgpack
import numpy as np

from selfalign.data.observation import Observation
from selfalign.data.play_step import PlayStep
from selfalign.data.spec import RobotSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

BEGIN = 1
STEP = 2
FLUSH = 3
END = 4


@final
@dataclass(frozen=True)
class Begin:
    """An episode begins."""

    episode: str
    spec: RobotSpec
    meta: dict[str, Any]


@final
@dataclass(frozen=True, eq=False)
class Step:
    """Step number `index` of an episode."""

    episode: str
    index: int
    step: PlayStep


@final
@dataclass(frozen=True)
class Flush:
    """Make durable what was received of an episode."""

    episode: str


@final
@dataclass(frozen=True)
class End:
    """No more steps of this episode."""

    episode: str


Entry = Begin | Step | Flush | End


def encode(entry: Entry) -> tuple[int, bytes]:
    """Return the kind and the payload of an entry."""
    match entry:
        case Begin(episode, spec, meta):
            return BEGIN, _pack([episode, spec.model_dump(mode="json"), meta])
        case Step(episode, index, step):
            return STEP, _pack([episode, index, *_step_fields(step)])
        case Flush(episode):
            return FLUSH, _pack([episode])
        case End(episode):
            return END, _pack([episode])


def decode(kind: int, payload: bytes) -> Entry:
    """Return the entry of a record that `encode` made."""
    fields = msgpack.unpackb(payload)
    if kind == BEGIN:
        episode, spec, meta = fields
        return Begin(episode, RobotSpec.model_validate(spec), meta)
    if kind == STEP:
        episode, index, *rest = fields
        return Step(episode, index, _step(*rest))
    return Flush(*fields) if kind == FLUSH else End(*fields)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _step_fields(step: PlayStep) -> list[Any]:
    observation = step.observation
    images = {
        name: [*image.shape[:2], np.ascontiguousarray(image).data.cast("B")]
        for name, image in observation.images.items()
    }
    state, action = observation.state.tobytes(), step.action.tobytes()
    return [step.t_ns, observation.instruction, state, action, images]


def _step(
    t_ns: int, instruction: str, state: bytes, action: bytes, images: Mapping[str, list[Any]]
) -> PlayStep:
    frames = {
        name: np.frombuffer(data, np.uint8).reshape(height, width, 3)
        for name, (height, width, data) in images.items()
    }
    observation = Observation(frames, np.frombuffer(state, np.float32), instruction)
    return PlayStep(observation, np.frombuffer(action, np.float32), t_ns)
