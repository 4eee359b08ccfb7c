"""The numbers of one robot as a policy takes them: state, actions, and the state in a prompt.

A policy whose directory has statistics (norm_stats.json) normalises by these, any other by the
limits that the robot declares. Of a target it sees the change since the last command.

Shape key: B observations, s state numbers and a action numbers of the robot, S and A those of the
model, H steps.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.delta_actions import DeltaActions
from selfalign.data.norm_stats import Rule, StatisticsNormaliser
from selfalign.data.normalisation import NormalisationError, Normaliser
from selfalign.data.spec import RobotSpec
from selfalign.data.target_steps import TargetSteps
from selfalign.errors import SpecError
from selfalign.model.config import ModelConfig
from selfalign.model.processing import Processing, Statistics


@final
class RobotNumbers:
    """Raw numbers to normalised ones and back. Stateless; any thread may call it.

    Raises SpecError at construction when the model's statistics do not fit the robot: they are
    those of whole actions, so a robot with targets has none.
    """

    def __init__(
        self, spec: RobotSpec, config: ModelConfig, processing: Processing | None = None
    ) -> None:
        self.spec, self.processing = spec, processing
        self.state_normaliser: Normaliser | StatisticsNormaliser
        self.action_normaliser: Normaliser | StatisticsNormaliser
        self._delta: DeltaActions | None = None
        self._targets = TargetSteps.of(spec)
        if processing is None:
            self.state_normaliser = Normaliser.for_state(spec, width=config.state_dim)
            self.action_normaliser = Normaliser.for_action(spec, width=config.action_dim)
        elif self._targets is not None:
            raise SpecError(
                f"robot {spec.name!r} declares targets ({', '.join(spec.targets)}), but the model "
                f"has statistics of whole actions ({processing.source}); leave targets out, or "
                "take a model without statistics"
            )
        else:
            self.state_normaliser = _by_statistics("state", processing, spec, config.state_dim)
            self.action_normaliser = _by_statistics("action", processing, spec, config.action_dim)
            self._delta = _delta_of(processing, spec)
        told = None if processing is None else processing.state_in_prompt
        self._in_prompt = config.flavour == "pi05" if told is None else told

    def state(self, raw_Bs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised and padded states [B, S]."""
        return self.state_normaliser.normalise(raw_Bs)

    def prompt_states(self, raw_Bs: NDArray[np.float32]) -> list[NDArray[np.floating]] | None:
        """The normalised states [s] that stand in the prompts, not padded; None if none do."""
        if not self._in_prompt:
            return None
        if isinstance(self.state_normaliser, StatisticsNormaliser):
            return list(self.state_normaliser.exact(raw_Bs))
        return list(self.state_normaliser.normalise(raw_Bs)[:, : len(self.spec.state)])

    def last_commands(
        self, state_Bs: NDArray[np.float32], given: Sequence[NDArray[np.floating] | None]
    ) -> NDArray[np.floating] | None:
        """The command [B, a] before each chunk, as `TargetSteps.last`; None without targets.

        Raises:
            ObservationMismatch: one is needed and neither given nor measured, or is no command.
        """
        if self._targets is None:
            return None
        known = zip(state_Bs, given, strict=True)
        return np.array([self._targets.last(state, command) for state, command in known])

    def actions(
        self,
        raw_BHa: NDArray[np.float32],
        state_Bs: NDArray[np.float32],
        last_Ba: NDArray[np.floating] | None = None,
    ) -> NDArray[np.float32]:
        """Normalised and padded actions [B, H, A].

        `state_Bs` is the state before the first action and `last_Ba` the command before it, which
        robots with targets need.
        """
        if self._targets is not None:
            assert last_Ba is not None, "targets need the command before"
            raw_BHa = self._targets.changes(raw_BHa, last_Ba)
        if self._delta is not None:
            raw_BHa = self._delta.relative(raw_BHa, state_Bs)
        return self.action_normaliser.normalise(raw_BHa)

    def raw_actions(
        self,
        normalised_BHA: NDArray[np.float32],
        state_Bs: NDArray[np.float32],
        last_Ba: NDArray[np.floating] | None = None,
    ) -> NDArray[np.float32]:
        """The inverse of `actions`: what the robot is to execute, [B, H, a]."""
        normaliser = self.action_normaliser
        if self._targets is not None:
            assert last_Ba is not None, "targets need the command before"
            return self._targets.targets(normaliser.denormalise(normalised_BHA), last_Ba)
        if self._delta is None or not isinstance(normaliser, StatisticsNormaliser):
            return normaliser.denormalise(normalised_BHA)
        raw = normaliser.exact_back(normalised_BHA)
        return self._delta.absolute(raw, state_Bs).astype(np.float32)


_RULES: dict[str, Rule] = {"z_score": "z_score", "identity": "identity"}


def _by_statistics(
    what: str, processing: Processing, spec: RobotSpec, width: int
) -> StatisticsNormaliser:
    given: Statistics = getattr(processing, what)
    try:
        return StatisticsNormaliser(
            *given.lists,
            rule=_RULES.get(given.method, "ends"),
            source=processing.source,
            dimensions=len(getattr(spec, what)),
            width=width,
        )
    except NormalisationError as error:
        raise SpecError(f"robot {spec.name!r}, {what}: {error}") from None


def _delta_of(processing: Processing, spec: RobotSpec) -> DeltaActions | None:
    if processing.delta_actions is None:
        return None
    try:
        return DeltaActions(
            processing.delta_actions, actions=len(spec.action), states=len(spec.state)
        )
    except NormalisationError as error:
        raise SpecError(f"robot {spec.name!r}: {error}") from None
