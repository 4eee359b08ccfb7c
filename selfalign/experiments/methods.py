"""Base, aligned, oracle, and everything that alignment is compared with, by name.

    base               W0
    aligned            W aligned on the robot's play; the gates decide whether it serves
    oracle             W fitted with expert labels
    steps_<n>          aligned with n steps
    play_<s>           aligned on the first s seconds of play
    global_<s>         one W for this robot and 8 others, aligned on s seconds of play of each
    per_sample         W0 in every episode, aligned meanwhile on what that episode did so far
    aligned_online     the same from the aligned W, without gates
    demos_<n>          W fitted with the labels of n demonstrations
    early_stop         aligned with as many steps as the play kept back is predicted best after
    random_w           as far from W0 as the aligned W, in a random direction
    wrong_robot        the W of another robot of the cell
    mean_w             the mean W of robots of validation
    nearest_w          of those W, the one with the lowest loss on this robot's play
    shuffled_actions   aligned on play whose actions belong to other moments
    ..._only           aligned with one loss alone: perception, inverse, dynamics
    no_...             aligned without one
    full_finetune      all weights after the prefix moved by the same losses, W at W0
    lora               low-rank additions to the action expert moved by them, W at W0
    gate_closed        the policy with its TTT layers switched off: W is ignored
    bc                 another model, trained without any W: behaviour cloning (`--bc-model`)
    analytic           the W of the plain robot, which this one is made to look like by its known
                       camera and kinematics

Every method but the labelled ones sees the same play.
"""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, final

import torch

from selfalign.align.aligner import Aligner
from selfalign.align.batch import TransitionBatch
from selfalign.errors import SelfAlignError
from selfalign.experiments.adapt import encode, fit
from selfalign.experiments.analytic import Disguise, plain_robot
from selfalign.experiments.bench import NUMBERED, Bench, Candidate
from selfalign.experiments.finetune import fine_tune
from selfalign.experiments.oracle import demonstrate, fit_with_labels
from selfalign.experiments.peak_memory import measured
from selfalign.experiments.play import with_shuffled_actions
from selfalign.experiments.robots import draw_robot
from selfalign.model.checkpoint import load_policy
from selfalign.model.policy import Policy
from selfalign.model.ttt import TTTLayer, identity_gate
from selfalign.model.weights import FastWeights

# The key of the plain robot's W among those of cells.
_PLAIN: Final = "plain"


@final
class UnknownMethod(SelfAlignError):
    """There is no method of that name, or it lacks what it acts with."""


def check_methods(names: Iterable[str], *, bc_model: Path | None = None) -> None:
    """Raise UnknownMethod for a name that `candidate` does not know, or `bc` without its model."""
    kinds = ("steps_<n>", "play_<seconds>", "global_<seconds>", "demos_<n>")
    for name in names:
        if name not in _METHODS and not NUMBERED.fullmatch(name):
            known = ", ".join([*_METHODS, *kinds])
            raise UnknownMethod(f"no method is called {name!r}; known: {known}")
        if name == "bc" and bc_model is None:
            raise UnknownMethod(
                "method 'bc' acts with another model: give its directory as --bc-model"
            )


def candidate(bench: Bench, name: str) -> Candidate:
    """The W that a method comes up with for the robot of a bench.

    Raises:
        UnknownMethod: no such method.
    """
    check_methods([name], bc_model=bench.settings.bc_model)
    if name in _METHODS:
        found = _METHODS[name](bench)
        return found if isinstance(found, Candidate) else Candidate(name, found)
    kind, number = name.split("_")
    if kind == "steps":
        return Candidate(name, bench.alignment.w[int(number)])
    if kind == "demos":
        return Candidate(name, _labelled(bench, int(number)))
    if kind == "global":
        return _global(bench, name, float(number))
    aligned = bench.align(bench.play(float(number)))
    return Candidate(name, aligned.candidate, aligned.judgement)


def _base(bench: Bench) -> FastWeights:
    return bench.policy.base_w()


def _aligned(bench: Bench) -> Candidate:
    found = bench.alignment
    w = found.w[bench.settings.steps]
    return Candidate("aligned", w, found.judgement, took=found.took)


def _oracle(bench: Bench) -> FastWeights:
    return _labelled(bench, bench.settings.oracle.demonstrations)


def _labelled(bench: Bench, count: int) -> FastWeights:
    config, seed = bench.settings.oracle, bench.robot.demonstration_seed
    chunks = demonstrate(bench.stage.env(), bench.io, config, count=count, seed=seed)
    return fit_with_labels(bench.io, chunks, config, seed=seed)


def _early_stop(bench: Bench) -> Candidate:
    play, aligner = bench.encoded, Aligner(bench.policy, bench.settings.alignment)
    choice = bench.settings.early_steps
    found = fit(aligner, play.train, steps=max(choice), keep=choice)
    with torch.no_grad():
        lost = {
            s: float(aligner.losses(bench.policy, play.held_out, found[s]).total) for s in found
        }
    best = min(lost, key=lambda steps: lost[steps])
    return Candidate("early_stop", found[best], steps=best)


def _global(bench: Bench, name: str, seconds: float) -> Candidate:
    strange, steps = bench.strange_play(seconds), bench.settings.steps
    aligner = Aligner(bench.policy, bench.settings.alignment)

    def found() -> FastWeights:
        own = encode(bench.io, bench.play(seconds)).train
        return fit(aligner, TransitionBatch.cat([own, *strange]), steps=steps)[steps]

    bench.play(seconds)  # Recording is not what is measured.
    w, took = measured(found)
    return Candidate(name, w, took=took)


def _per_sample(bench: Bench) -> Candidate:
    return Candidate("per_sample", bench.policy.base_w(), is_online=True)


def _aligned_online(bench: Bench) -> Candidate:
    w = bench.alignment.w[bench.settings.steps]
    return Candidate("aligned_online", w, is_online=True)


def _gate_closed(bench: Bench) -> Candidate:
    closed = copy.deepcopy(bench.policy)
    for module in closed.modules():
        if isinstance(module, TTTLayer):
            identity_gate(module)
    return Candidate("gate_closed", closed.base_w(), policy=closed.freeze())


def _bc(bench: Bench) -> Candidate:
    directory, known = bench.settings.bc_model, bench.library.policies
    assert directory is not None, "check_methods comes first"
    if directory not in known:
        known[directory] = load_policy(directory)
    return Candidate("bc", known[directory].base_w(), policy=known[directory])


def _analytic(bench: Bench) -> Candidate:
    known = bench.library.w
    if _PLAIN not in known:
        known[_PLAIN] = [bench.other(plain_robot())]
    return Candidate("analytic", known[_PLAIN][0], disguise=Disguise.of(bench.robot))


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
    found = bench.align(with_shuffled_actions(play, bench.io.spec, bench.robot.method_seed))
    return Candidate("shuffled_actions", found.candidate, found.judgement)


def _full_finetune(bench: Bench) -> Candidate:
    return _tuned(bench, "full_finetune", bench.settings.rivals.full_learning_rate)


def _lora(bench: Bench) -> Candidate:
    rivals = bench.settings.rivals
    return _tuned(bench, "lora", rivals.lora_learning_rate, rank=rivals.lora_rank)


def _tuned(bench: Bench, label: str, learning_rate: float, rank: int | None = None) -> Candidate:
    aligner = Aligner(bench.policy, bench.settings.alignment)
    play = bench.play(bench.settings.play_seconds)

    def tuned() -> Policy:
        return fine_tune(
            bench.policy,
            encode(bench.io, play).train,
            aligner,
            steps=bench.settings.steps,
            learning_rate=learning_rate,
            rank=rank,
        )

    policy, took = measured(tuned)
    return Candidate(label, policy.base_w(), policy=policy, took=took)


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
    "early_stop": _early_stop,
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
    "gate_closed": _gate_closed,
    "bc": _bc,
    "analytic": _analytic,
    "per_sample": _per_sample,
    "aligned_online": _aligned_online,
}
