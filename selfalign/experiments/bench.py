"""One robot set up on a stage, and what several methods need of it, made once."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar, final

from selfalign.align.aligner import Aligner, AlignmentConfig
from selfalign.align.batch import TransitionBatch
from selfalign.align.robot_io import RobotIO
from selfalign.data.play_store import EpisodeSlice
from selfalign.experiments.adapt import (
    Alignment,
    EncodedPlay,
    Judgement,
    align,
    encode,
    fit,
    judge,
)
from selfalign.experiments.analytic import Disguise
from selfalign.experiments.cells import Cell
from selfalign.experiments.peak_memory import Took
from selfalign.experiments.play import beginning, play_steps, record_play
from selfalign.experiments.robots import UnseenRobot, draw_robot
from selfalign.experiments.settings import Settings
from selfalign.experiments.stage import Stage
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights

NUMBERED: Final = re.compile(r"(steps|play|global|demos)_([0-9]+(?:\.[0-9]+)?)")
T = TypeVar("T")
_LIBRARY_SEED: Final = 7_000_003
LIBRARY_SIZE: Final = 8


@final
@dataclass(frozen=True, eq=False)
class Candidate:
    """What a method came up with, and what the gates say where they can judge it.

    `policy` is the frozen model that acts with it, None for the one that is evaluated; `disguise`
    makes the robot look like another one; with `is_online` every episode goes on from W by itself.
    `steps` is how many steps the method chose to take, where it chooses; `took` what they took.
    """

    label: str
    w: FastWeights
    judgement: Judgement | None = None
    policy: Policy | None = None
    disguise: Disguise | None = None
    is_online: bool = False
    steps: int | None = None
    took: Took | None = None


@final
@dataclass(eq=False)
class Library:
    """What robots share, made once: W and play of strangers by cell, and other policies."""

    w: dict[str, list[FastWeights]] = field(default_factory=dict)
    play: dict[tuple[str, float], list[TransitionBatch]] = field(default_factory=dict)
    policies: dict[Path, Policy] = field(default_factory=dict)


@final
@dataclass(eq=False)
class Bench:
    """One robot set up on a stage, and what several methods need of it, made once."""

    policy: Policy
    stage: Stage
    cell: Cell
    robot: UnseenRobot
    index: int
    settings: Settings
    library: Library = field(default_factory=Library)

    @cached_property
    def io(self) -> RobotIO:
        """The robot's way into the policy."""
        return RobotIO(self.policy, self.stage.spec)

    @cached_property
    def long_play(self) -> EpisodeSlice:
        """As much play as any of the methods needs."""
        methods = self.settings.methods
        wanted = [
            self.settings.play_seconds,
            *numbers(methods, "play"),
            *numbers(methods, "global"),
        ]
        return record_play(self.stage.env(), seconds=max(wanted), seed=self.robot.play_seed)

    @cached_property
    def alignment(self) -> Alignment:
        """The alignment of the settings, with W kept where a method asks for it."""
        keep = {int(n) for n in numbers(self.settings.methods, "steps")}
        last = max(keep | {self.settings.steps})
        play = self.play(self.settings.play_seconds)
        found = self.align(play, steps=self.settings.steps, keep=keep)
        if last > self.settings.steps:
            later = self.fit(play, steps=last, keep=keep)
            found.w.update({step: later[step] for step in keep})
        return found

    @cached_property
    def encoded(self) -> EncodedPlay:
        """The play of the settings, as alignment takes it."""
        return encode(self.io, self.play(self.settings.play_seconds))

    def judge(self, w: FastWeights, play: EncodedPlay | None = None) -> Judgement:
        """Let any W pass through the gates, on this robot's play unless other is given."""
        aligner = Aligner(self.policy, self.settings.alignment)
        return judge(aligner, play or self.encoded, w, self.settings.gates)

    def play(self, seconds: float) -> EpisodeSlice:
        """So much play."""
        return beginning(self.long_play, play_steps(self.stage.env(), seconds))

    def align(
        self, play: EpisodeSlice, *, steps: int | None = None, keep: Iterable[int] = ()
    ) -> Alignment:
        """Align on play as the settings say, and judge."""
        return align(
            self.io,
            play,
            steps=steps or self.settings.steps,
            config=self.settings.alignment,
            gates=self.settings.gates,
            keep=set(keep),
        )

    def fit(
        self,
        play: EpisodeSlice,
        *,
        steps: int | None = None,
        keep: Iterable[int] = (),
        config: AlignmentConfig | None = None,
    ) -> dict[int, FastWeights]:
        """Align on the training part of play, without judging."""
        aligner = Aligner(self.policy, config or self.settings.alignment)
        train = encode(self.io, play).train
        return fit(aligner, train, steps=steps or self.settings.steps, keep=set(keep))

    def at(self, robot: UnseenRobot, find: Callable[["Bench"], T]) -> T:
        """What is found for another robot that is set up meanwhile."""
        self.stage.set_up(robot)
        try:
            return find(Bench(self.policy, self.stage, self.cell, robot, -1, self.settings))
        finally:
            self.stage.set_up(self.robot)

    def other(self, robot: UnseenRobot) -> FastWeights:
        """The W of another robot, aligned as this one."""
        seconds, steps = self.settings.play_seconds, self.settings.steps
        return self.at(robot, lambda bench: bench.fit(bench.own_play(seconds))[steps])

    def own_play(self, seconds: float) -> EpisodeSlice:
        """So much play of the robot, recorded for this alone."""
        return record_play(self.stage.env(), seconds=seconds, seed=self.robot.play_seed)

    def strangers(self) -> list[FastWeights]:
        """The W of robots of validation, made once a cell."""
        known = self.library.w
        if self.cell.name not in known:
            known[self.cell.name] = [self.other(robot) for robot in self._strange_robots()]
        return known[self.cell.name]

    def strange_play(self, seconds: float) -> list[TransitionBatch]:
        """What these robots would learn from after so much play, made once a cell."""
        key, known = (self.cell.name, seconds), self.library.play
        if key not in known:
            known[key] = [
                self.at(robot, lambda bench: encode(bench.io, bench.own_play(seconds)).train)
                for robot in self._strange_robots()
            ]
        return known[key]

    def _strange_robots(self) -> list[UnseenRobot]:
        return [
            draw_robot(self.cell, "validation", seed=_LIBRARY_SEED, index=index, episodes=0)
            for index in range(LIBRARY_SIZE)
        ]


def numbers(methods: Iterable[str], kind: str) -> list[float]:
    """The numbers of the methods `<kind>_<number>`."""
    found = [NUMBERED.fullmatch(name) for name in methods]
    return [float(match[2]) for match in found if match and match[1] == kind]
