"""Base, aligned, oracle, and everything that alignment is compared with, by name.

    base               W0
    aligned            W aligned on the robot's play; the gates decide whether it serves
    oracle             W fitted with expert labels
    steps_<n>          aligned with n steps
    play_<s>           aligned on the first s seconds of play
    demos_<n>          W fitted with the labels of n demonstrations
    random_w           as far from W0 as the aligned W, in a random direction
    wrong_robot        the W of another robot of the cell
    mean_w             the mean W of robots of validation
    nearest_w          of those W, the one with the lowest loss on this robot's play
    shuffled_actions   aligned on play whose actions belong to other moments
    ..._only           aligned with one loss alone: perception, inverse, dynamics
    no_...             aligned without one
    full_finetune      all weights after the prefix moved by the same losses, W at W0
    lora               low-rank additions to the action expert moved by them, W at W0

Every method but the labelled ones sees the same play.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, final

import torch

from selfalign.align.aligner import Aligner, AlignmentConfig
from selfalign.align.robot_io import RobotIO
from selfalign.data.play_store import EpisodeSlice
from selfalign.errors import SelfAlignError
from selfalign.experiments.adapt import (
    Alignment,
    EncodedPlay,
    Judgement,
    align,
    encode,
    fit,
    judge,
)
from selfalign.experiments.cells import Cell
from selfalign.experiments.finetune import fine_tune
from selfalign.experiments.oracle import demonstrate, fit_with_labels
from selfalign.experiments.play import (
    beginning,
    play_steps,
    record_play,
    with_shuffled_actions,
)
from selfalign.experiments.robots import UnseenRobot, draw_robot
from selfalign.experiments.settings import Settings
from selfalign.experiments.stage import Stage
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights

_LIBRARY_SEED: Final = 7_000_003
_LIBRARY_SIZE: Final = 8
_NUMBERED: Final = re.compile(r"(steps|play|demos)_([0-9]+(?:\.[0-9]+)?)")


@final
class UnknownMethod(SelfAlignError):
    """There is no method of that name."""


@final
@dataclass(frozen=True, eq=False)
class Candidate:
    """What a method came up with, and what the gates say where they can judge it.

    `policy` is the frozen model that acts with it, None for the one that is evaluated.
    """

    label: str
    w: FastWeights
    judgement: Judgement | None = None
    policy: Policy | None = None


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
    library: dict[str, list[FastWeights]] = field(default_factory=dict)

    @cached_property
    def io(self) -> RobotIO:
        """The robot's way into the policy."""
        return RobotIO(self.policy, self.stage.spec)

    @cached_property
    def long_play(self) -> EpisodeSlice:
        """As much play as any of the methods needs."""
        wanted = [self.settings.play_seconds, *_numbers(self.settings.methods, "play")]
        return record_play(self.stage.env(), seconds=max(wanted), seed=self.robot.play_seed)

    @cached_property
    def alignment(self) -> Alignment:
        """The alignment of the settings, with W kept where a method asks for it."""
        keep = {int(n) for n in _numbers(self.settings.methods, "steps")}
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

    def other(self, robot: UnseenRobot) -> FastWeights:
        """The W of another robot of the same arm, aligned as this one."""
        self.stage.set_up(robot)
        try:
            bench = Bench(self.policy, self.stage, self.cell, robot, -1, self.settings)
            play = record_play(
                self.stage.env(), seconds=self.settings.play_seconds, seed=robot.play_seed
            )
            return bench.fit(play)[self.settings.steps]
        finally:
            self.stage.set_up(self.robot)

    def strangers(self) -> list[FastWeights]:
        """The W of robots of validation, made once a cell."""
        if self.cell.name not in self.library:
            self.library[self.cell.name] = [
                self.other(
                    draw_robot(self.cell, "validation", seed=_LIBRARY_SEED, index=index, episodes=0)
                )
                for index in range(_LIBRARY_SIZE)
            ]
        return self.library[self.cell.name]


def check_methods(names: Iterable[str]) -> None:
    """Raise UnknownMethod for a name that `candidate` does not know."""
    for name in names:
        if name not in _METHODS and not _NUMBERED.fullmatch(name):
            known = ", ".join([*_METHODS, "steps_<n>", "play_<seconds>", "demos_<n>"])
            raise UnknownMethod(f"no method is called {name!r}; known: {known}")


def candidate(bench: Bench, name: str) -> Candidate:
    """The W that a method comes up with for the robot of a bench.

    Raises:
        UnknownMethod: no such method.
    """
    check_methods([name])
    if name in _METHODS:
        found = _METHODS[name](bench)
        return found if isinstance(found, Candidate) else Candidate(name, found)
    kind, number = name.split("_")
    if kind == "steps":
        return Candidate(name, bench.alignment.w[int(number)])
    if kind == "demos":
        return Candidate(name, _labelled(bench, int(number)))
    aligned = bench.align(bench.play(float(number)))
    return Candidate(name, aligned.candidate, aligned.judgement)


def _base(bench: Bench) -> FastWeights:
    return bench.policy.base_w()


def _aligned(bench: Bench) -> Candidate:
    found = bench.alignment
    return Candidate("aligned", found.w[bench.settings.steps], found.judgement)


def _oracle(bench: Bench) -> FastWeights:
    return _labelled(bench, bench.settings.oracle.demonstrations)


def _labelled(bench: Bench, count: int) -> FastWeights:
    config, seed = bench.settings.oracle, bench.robot.demonstration_seed
    chunks = demonstrate(bench.stage.env(), bench.io, config, count=count, seed=seed)
    return fit_with_labels(bench.io, chunks, config, seed=seed)


def _random_w(bench: Bench) -> Candidate:
    base = bench.policy.base_w()
    moved = bench.alignment.w[bench.settings.steps].combine(base, torch.sub)
    generator = torch.Generator().manual_seed(bench.robot.method_seed)
    noise = base.map(lambda tensor: torch.randn(tensor.shape, generator=generator))
    scale = moved.norm() / noise.norm()
    w = base.combine(noise, lambda w, n: w + scale * n)
    return Candidate("random_w", w, bench.judge(w))


def _wrong_robot(bench: Bench) -> Candidate:
    settings = bench.settings
    # The robot after the last of this cell is still another one than each of them.
    robot = draw_robot(
        bench.cell, settings.split, seed=settings.seed, index=bench.index + 1, episodes=0
    )
    w = bench.other(robot)
    return Candidate("wrong_robot", w, bench.judge(w))


def _mean_w(bench: Bench) -> FastWeights:
    return FastWeights.stack(bench.strangers()).map(lambda tensor: tensor.mean(0))


@torch.no_grad()
def _nearest_w(bench: Bench) -> FastWeights:
    play = bench.encoded.train
    losses = Aligner(bench.policy, bench.settings.alignment).losses
    return min(bench.strangers(), key=lambda w: float(losses(bench.policy, play, w).total))


def _shuffled_actions(bench: Bench) -> Candidate:
    play = bench.play(bench.settings.play_seconds)
    found = bench.align(with_shuffled_actions(play, bench.robot.method_seed))
    return Candidate("shuffled_actions", found.candidate, found.judgement)


def _full_finetune(bench: Bench) -> Candidate:
    return _tuned(bench, "full_finetune", bench.settings.rivals.full_learning_rate)


def _lora(bench: Bench) -> Candidate:
    rivals = bench.settings.rivals
    return _tuned(bench, "lora", rivals.lora_learning_rate, rank=rivals.lora_rank)


def _tuned(bench: Bench, label: str, learning_rate: float, rank: int | None = None) -> Candidate:
    policy = fine_tune(
        bench.policy,
        bench.encoded.train,
        Aligner(bench.policy, bench.settings.alignment),
        steps=bench.settings.steps,
        learning_rate=learning_rate,
        rank=rank,
    )
    return Candidate(label, policy.base_w(), policy=policy)


def _with_losses(*on: str) -> Callable[[Bench], FastWeights]:
    off = {
        f"lambda_{name}": 0.0
        for name in ("perception", "inverse_dynamics", "dynamics")
        if name not in on
    }

    def method(bench: Bench) -> FastWeights:
        config = bench.settings.alignment.model_copy(update=off)
        play = bench.play(bench.settings.play_seconds)
        return bench.fit(play, config=config)[bench.settings.steps]

    return method


_METHODS: Final[dict[str, Callable[[Bench], Candidate | FastWeights]]] = {
    "base": _base,
    "aligned": _aligned,
    "oracle": _oracle,
    "random_w": _random_w,
    "wrong_robot": _wrong_robot,
    "mean_w": _mean_w,
    "nearest_w": _nearest_w,
    "shuffled_actions": _shuffled_actions,
    "perception_only": _with_losses("perception"),
    "inverse_only": _with_losses("inverse_dynamics"),
    "dynamics_only": _with_losses("dynamics"),
    "no_perception": _with_losses("inverse_dynamics", "dynamics"),
    "no_inverse": _with_losses("perception", "dynamics"),
    "no_dynamics": _with_losses("perception", "inverse_dynamics"),
    "full_finetune": _full_finetune,
    "lora": _lora,
}


def _numbers(methods: Iterable[str], kind: str) -> list[float]:
    found = [_NUMBERED.fullmatch(name) for name in methods]
    return [float(match[2]) for match in found if match and match[1] == kind]
