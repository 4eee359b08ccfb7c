"""One step of play as it is recorded, and slices of it as they are read.

Shape key: n steps, H rows, W columns, S state, A action.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.observation import Observation, check_observation, implausible
from selfalign.data.spec import RobotSpec
from selfalign.errors import StoreError

_MAX_T_NS = (1 << 63) - 1


@final
class BadPlayStep(StoreError):
    """A play step does not match the robot spec or does not follow the step before."""


@final
@dataclass(frozen=True, eq=False)
class PlayStep:
    """What the robot sensed at one instant and the action that it executed then.

    Attributes:
        observation: sensed at `t_ns`.
        action: executed at `t_ns`, `[A]` float32 in the units of the robot spec.
        t_ns: monotonic clock of the robot [ns]; rises from step to step within an episode.
    """

    observation: Observation
    action: NDArray[np.float32]
    t_ns: int


@final
@dataclass(frozen=True, eq=False)
class EpisodeSlice:
    """Consecutive steps of one episode.

    Attributes:
        images: `[n, H, W, 3]` uint8 by camera name.
        state: `[n, S]` float32.
        action: `[n, A]` float32, executed at the same instants.
        t_ns: `[n]` int64, monotonic clock of the robot [ns].
        instructions: n texts.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    t_ns: NDArray[np.int64]
    instructions: tuple[str, ...]

    def __len__(self) -> int:
        """Number of steps n."""
        return len(self.t_ns)


def check_play_step(step: PlayStep, spec: RobotSpec, *, after_t_ns: int | None) -> None:
    """Check a step against the spec and against the time of the step before, None if first.

    Raises:
        ObservationMismatch: the observation does not match the spec.
        BadPlayStep: the action or the time is wrong.
    """
    check_observation(step.observation, spec)
    _check_action(step.action, spec)
    if type(step.t_ns) is not int or not 0 <= step.t_ns <= _MAX_T_NS:
        raise BadPlayStep(f"play step t_ns: expected an integer [ns] >= 0, got {step.t_ns!r}")
    if after_t_ns is not None and step.t_ns <= after_t_ns:
        msg = (
            f"play step t_ns: expected more than {after_t_ns}, the time of the step before, got "
            f"{step.t_ns}; start a new episode if the robot's clock was reset"
        )
        raise BadPlayStep(msg)


def _check_action(action: object, spec: RobotSpec) -> None:
    count = len(spec.action)
    if not isinstance(action, np.ndarray) or action.dtype != np.float32 or action.shape != (count,):
        shape = f"{action.dtype} {list(action.shape)}" if isinstance(action, np.ndarray) else action
        msg = f"play step action: expected float32 array [{count}], got {shape!r}"
        raise BadPlayStep(msg)
    for i, (value, dimension) in enumerate(zip(action.tolist(), spec.action, strict=True)):
        problem = implausible(value, dimension)
        if problem:
            msg = f"play step action[{i}] ({dimension.name}): expected {problem}, got {value}"
            raise BadPlayStep(msg)
