"""What stands in the ring between server and recorder: begin, step, flush and end of an episode.

Everything the recorder needs to go on after a crash is in these records, so that a recorder that
is started again only has to read on.

A step is the length of its head, the head in msgpack, and the pixels of its images one after the
other. Its images are large, so nobody copies them: `encode` returns them as they are, beside the
head, and those of a decoded step are views of the record.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, final

import msgpack
import numpy as np

from selfalign.data.observation import Observation
from selfalign.data.play_step import PlayStep
from selfalign.data.spec import RobotSpec

_HEAD = struct.Struct("<I")

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
Part = bytes | memoryview


def encode(entry: Entry) -> tuple[int, *tuple[Part, ...]]:
    """Return the kind of an entry and the parts of its payload, to be written one after the other.

    The parts of a step are views of its images: write them before these change.
    """
    match entry:
        case Begin(episode, spec, meta):
            return BEGIN, _pack([episode, spec.model_dump(mode="json"), meta])
        case Step(episode, index, step):
            return STEP, *_step_parts(episode, index, step)
        case Flush(episode):
            return FLUSH, _pack([episode])
        case End(episode):
            return END, _pack([episode])


def decode(kind: int, payload: Part) -> Entry:
    """Return the entry of a record that `encode` made; the images of a step are views of it."""
    if kind == STEP:
        return _step(payload)
    fields = msgpack.unpackb(payload)
    if kind == BEGIN:
        episode, spec, meta = fields
        return Begin(episode, RobotSpec.model_validate(spec), meta)
    return Flush(*fields) if kind == FLUSH else End(*fields)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _step_parts(episode: str, index: int, step: PlayStep) -> list[Part]:
    observation = step.observation
    shapes = {name: image.shape[:2] for name, image in observation.images.items()}
    state, action = observation.state.tobytes(), step.action.tobytes()
    head = _pack([episode, index, step.t_ns, observation.instruction, state, action, shapes])
    pixels = [np.ascontiguousarray(i).data.cast("B") for i in observation.images.values()]
    return [_HEAD.pack(len(head)), head, *pixels]


def _step(payload: Part) -> Step:
    (length,) = _HEAD.unpack_from(payload)
    start = _HEAD.size + length
    head = msgpack.unpackb(payload[_HEAD.size : start])
    episode, index, t_ns, instruction, state, action, shapes = head
    frames = {}
    for name, size in shapes.items():
        shape = (*size, 3)
        count = math.prod(shape)
        frames[name] = np.frombuffer(payload, np.uint8, count, start).reshape(shape)
        start += count
    observation = Observation(frames, np.frombuffer(state, np.float32), instruction)
    return Step(episode, index, PlayStep(observation, np.frombuffer(action, np.float32), t_ns))
