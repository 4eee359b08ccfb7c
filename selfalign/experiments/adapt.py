"""Alignment as the server runs it: same split, same draws, same steps, same gates.

`tests/selfalign/experiments/test_adapt.py` holds this against `server.align_job`, which cannot be
imported from here: the server composes selfalign, never the reverse.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, final

import torch

from selfalign.align.aligner import Aligner, AlignmentConfig
from selfalign.align.batch import TransitionBatch
from selfalign.align.gates import GateConfig, GateReport, run_gates
from selfalign.align.holdout import split_held_out
from selfalign.align.losses import NAMES
from selfalign.align.robot_io import RobotIO
from selfalign.data.play_store import EpisodeSlice
from selfalign.data.transitions import robot_starts
from selfalign.errors import NoPlayData
from selfalign.experiments.peak_memory import Took, measured
from selfalign.model.weights import FastWeights

_ANCHORS: Final = 16
_SEED: Final = 0


@final
@dataclass(frozen=True, eq=False)
class EncodedPlay:
    """Transitions to learn from, and those that the gates judge by."""

    train: TransitionBatch
    held_out: TransitionBatch


@final
@dataclass(frozen=True)
class Judgement:
    """What the gates say of a candidate, and its losses on both parts of the play."""

    report: GateReport
    held_out_before: dict[str, float]
    held_out_after: dict[str, float]
    train_before: dict[str, float]
    train_after: dict[str, float]


@final
@dataclass(frozen=True, eq=False)
class Alignment:
    """W at some of the steps, the last one judged, and what it took from play to W."""

    w: dict[int, FastWeights]
    judgement: Judgement
    took: Took

    @property
    def candidate(self) -> FastWeights:
        """W after the last step."""
        return self.w[max(self.w)]


def encode(io: RobotIO, play: EpisodeSlice) -> EncodedPlay:
    """Split the transitions of an episode and compute their prefixes. Raises NoPlayData."""
    stride = io.policy.config.stride
    starts = robot_starts(io.spec, play.t_ns, len(play), stride=stride)
    split = split_held_out([starts], stride=stride)[0]
    if not (len(split.train) and len(split.held_out)):
        raise NoPlayData(
            f"{len(play)} steps of play ({len(play) / io.spec.rate_hz:.3g} s) hold {len(starts)} "
            "transitions, too few to train on some and judge on others; play longer"
        )
    return EncodedPlay(io.transitions(play, split.train), io.transitions(play, split.held_out))


def align(
    io: RobotIO,
    play: EpisodeSlice,
    *,
    steps: int,
    config: AlignmentConfig,
    gates: GateConfig,
    keep: Collection[int] = (),
) -> Alignment:
    """Align from the base W, and judge what came out against it.

    Args:
        io: The robot.
        play: What it recorded.
        steps: Steps to take.
        config: Of the aligner.
        gates: Limits of the gates.
        keep: Steps after which W is kept too.
    """

    def found() -> tuple[EncodedPlay, dict[int, FastWeights]]:
        encoded = encode(io, play)
        return encoded, fit(Aligner(io.policy, config), encoded.train, steps=steps, keep=keep)

    (encoded, w), took = measured(found)
    return Alignment(w, judge(Aligner(io.policy, config), encoded, w[steps], gates), took)


def fit(
    aligner: Aligner, train: TransitionBatch, *, steps: int, keep: Collection[int] = ()
) -> dict[int, FastWeights]:
    """W after `steps` steps from the base, and after each step of `keep` before."""
    generator = torch.Generator().manual_seed(_SEED)
    state = aligner.start(aligner.policy.base_w())
    found = {0: state.w} if 0 in keep else {}
    while state.step < steps:
        rows = torch.randint(len(train), (aligner.config.batch_size,), generator=generator)
        state = aligner.step(train.index(rows), state)
        if state.step in keep or state.step == steps:
            found[state.step] = state.w
    return found


def judge(
    aligner: Aligner, play: EncodedPlay, candidate: FastWeights, gates: GateConfig
) -> Judgement:
    """Let a candidate pass through the gates, against the base W."""
    policy, base = aligner.policy, aligner.policy.base_w()
    held_out = play.held_out
    rows = torch.linspace(0, len(held_out) - 1, min(_ANCHORS, len(held_out))).round().long()
    anchors = held_out.index(rows)
    off = tuple(f"alignment/{name}" for name in NAMES if aligner.config.of(name) == 0)
    report = run_gates(
        policy,
        aligner.losses,
        held_out=held_out,
        active=base,
        candidate=candidate,
        base=base,
        anchors=(anchors.now, anchors.state),
        config=gates.model_copy(update={"exempt_losses": off}),
        action_mask=anchors.action_mask[0],
    )
    return Judgement(
        report,
        held_out_before=_losses(aligner, held_out, base),
        held_out_after=_losses(aligner, held_out, candidate),
        train_before=_losses(aligner, play.train, base),
        train_after=_losses(aligner, play.train, candidate),
    )


@torch.no_grad()
def _losses(aligner: Aligner, batch: TransitionBatch, w: FastWeights) -> dict[str, float]:
    metrics = aligner.losses(aligner.policy, batch, w).metrics
    return {name.removeprefix("alignment/"): value for name, value in metrics.items()}


def finite(value: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return float(value) if math.isfinite(value) else None
