"""A play step as it came over the wire, to one that fits the robot spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfalign.data.observation import Observation
from selfalign.data.play_step import BadPlayStep, PlayStep, check_play_step
from selfalign.errors import ObservationError
from server.dialects import decode_images
from server.problems import ProblemError
from server.wire.problems import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfalign.data.spec import RobotSpec
    from server.wire.messages import PlayStep as SentStep


def read_steps(
    sent: Sequence[SentStep], spec: RobotSpec, *, after_t_ns: int | None
) -> list[PlayStep]:
    """Decode and check steps that follow one another.

    Raises:
        ProblemError: `bad-play-step` naming the first wrong step and field; none may be used.
    """
    steps: list[PlayStep] = []
    for number, one in enumerate(sent):
        try:
            step = read_step(one, spec)
            check_play_step(step, spec, after_t_ns=after_t_ns)
        except (WireError, ObservationError, BadPlayStep) as error:
            raise ProblemError(
                "bad-play-step", f"steps[{number}]: {error}; no step was taken", step=number
            ) from None
        after_t_ns = step.t_ns
        steps.append(step)
    return steps


def read_step(sent: SentStep, spec: RobotSpec) -> PlayStep:
    """Decode a step; its numbers are checked where it is taken.

    Raises:
        WireError: An image cannot be read, or has the wrong size.
    """
    images = decode_images(sent.images, spec)
    instruction = sent.instruction
    if instruction is None:
        instruction = spec.default_instruction
    return PlayStep(Observation(images, sent.state, instruction), sent.action, sent.t_ns)


def is_cheap(sent: SentStep) -> bool:
    """Whether reading a step decodes no image, so that the event loop may do it."""
    return not any(isinstance(image, bytes | str) for image in sent.images.values())


def as_bad_step(error: Exception) -> Exception:
    """Name an error of a step what it is for a client of play; other errors stay."""
    if isinstance(error, ObservationError | BadPlayStep):
        return ProblemError("bad-play-step", str(error))
    if isinstance(error, WireError) and error.code == "bad-image":
        return ProblemError("bad-play-step", str(error))
    return error
