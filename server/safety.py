"""The last stage before a chunk leaves: finite, within the declared limits, no jumps.

Order matters. A NaN passes every comparison with a limit, so a chunk that clamping does not leave
just as it was is first searched for one, which condemns it; only then are limits named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from selfalign.errors import SelfAlignError, SpecError
from server.wire.problems import WireError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from selfalign.data.spec import RobotSpec

# An excess below this share of an action's range is rounding, and not reported.
_ROUNDING = 1e-6


class NonFiniteAction(SelfAlignError):
    """The policy gave NaN or infinity: the chunk is rejected as a whole."""

    code = "non-finite-action"

    def __init__(self, name: str, step: int) -> None:
        super().__init__(
            f"the policy gave an action that is not finite ({name!r}, step {step} of the chunk); "
            "the chunk was rejected. Stop the robot and roll W back (POST /w/rollback)"
        )


@final
@dataclass(frozen=True)
class SafeChunk:
    """A chunk that may be executed.

    Attributes:
        actions: `[H, A]` float32, within limits.
        limited: names of actions that left their limits somewhere in the chunk.
        slowed: names of actions that changed by more than `max_step` between two commands.
    """

    actions: NDArray[np.float32]
    limited: tuple[str, ...]
    slowed: tuple[str, ...]

    @property
    def clamped_dims(self) -> list[str]:
        """Names of all actions that had to be changed, in the order of the spec."""
        return list(dict.fromkeys((*self.limited, *self.slowed)))


@final
class ActionLimits:
    """What a robot's spec allows.

    Raises:
        SpecError: a limit is not finite, or they do not span a range.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._names = tuple(dimension.name for dimension in spec.action)
        self._low = np.array([dimension.low for dimension in spec.action], np.float32)
        self._high = np.array([dimension.high for dimension in spec.action], np.float32)
        self._rounding = (self._high - self._low) * np.float32(_ROUNDING)
        self._step = _largest_steps(spec)
        spans = np.isfinite(self._low) & np.isfinite(self._high) & (self._low < self._high)
        if not spans.all():
            name = self._names[int(np.argmin(spans))]
            raise SpecError(
                f"action {name!r} of robot {spec.name!r} needs finite limits, low < high"
            )

    def apply(self, chunk: NDArray[np.float32], previous: NDArray[np.floating] | None) -> SafeChunk:
        """Make a chunk `[H, A]` safe to execute after the command `previous` `[A]`.

        None, or NaN in an action, says that it is not known.

        Raises:
            NonFiniteAction: there is a NaN or an infinity in the chunk.
        """
        inside: NDArray[np.float32] = np.minimum(np.maximum(chunk, self._low), self._high)
        # Equal means finite as well: a NaN equals nothing, an infinity lies beyond its limit.
        limited = () if (inside == chunk).all() else self._limited(chunk, inside)
        if self._step is None:
            return SafeChunk(inside, limited, ())
        smooth = self._slow_down(inside, self._step, previous)
        slowed = (np.abs(smooth - inside) > self._rounding).any(axis=0)
        return SafeChunk(smooth, limited, self._named(slowed))

    def _limited(self, chunk: NDArray[np.float32], inside: NDArray[np.float32]) -> tuple[str, ...]:
        """Names of the actions that left their limits. Raises NonFiniteAction."""
        finite = np.isfinite(chunk)
        if not finite.all():
            step, column = np.argwhere(~finite)[0]
            raise NonFiniteAction(self._names[column], int(step))
        return self._named((np.abs(inside - chunk) > self._rounding).any(axis=0))

    def _slow_down(
        self,
        chunk: NDArray[np.float32],
        largest: NDArray[np.float32],
        previous: NDArray[np.floating] | None,
    ) -> NDArray[np.float32]:
        # Each value lies between its predecessor and its target, so it stays within the limits.
        smooth = chunk.copy()
        last = chunk[0]
        if previous is not None:
            inside = np.clip(previous, self._low, self._high).astype(np.float32)
            last = np.where(np.isnan(inside), chunk[0], inside)
        for row in smooth:
            np.clip(row, last - largest, last + largest, out=row)
            last = row
        return smooth

    def checked(self, previous: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """The command that a client says it sent last; None where `max_step` needs none.

        Raises:
            WireError: it is not one finite number for each action.
        """
        if previous is None or self._step is None:
            return None
        if previous.shape != self._low.shape or not np.isfinite(previous).all():
            raise WireError(
                "bad-observation",
                f"previous_action must be {len(self._names)} finite numbers, got "
                f"{np.array2string(previous, threshold=40)}",
            )
        return previous

    def _named(self, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(name for name, is_chosen in zip(self._names, chosen, strict=True) if is_chosen)


def _largest_steps(spec: RobotSpec) -> NDArray[np.float32] | None:
    if spec.max_step is None or all(step is None for step in spec.max_step):
        return None
    steps = np.array([np.inf if step is None else step for step in spec.max_step], np.float32)
    if not (steps > 0).all():
        raise SpecError(f"max_step of robot {spec.name!r} must be positive, got {spec.max_step}")
    return steps
