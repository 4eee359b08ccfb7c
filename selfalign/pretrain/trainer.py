"""Stage 1 from a configuration to a model directory: record, prefix, cache, inner loop.

Every part is skipped when its result is there, and goes on where it was stopped.
"""

from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import nn

from selfalign.align.losses import AlignmentLosses
from selfalign.data.recording import Recording
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.policy import Policy
from selfalign.model.ttt import TTTLayer, identity_gate
from selfalign.pretrain.cache import PrefixCache, build_cache
from selfalign.pretrain.config import PretrainConfig, Stage1Config
from selfalign.pretrain.dataset import open_dataset
from selfalign.pretrain.evaluate import adaptation_curve
from selfalign.pretrain.hindsight import LabelledPlay, hindsight_cache, label_play
from selfalign.pretrain.pool import Pool
from selfalign.pretrain.prefix import train_prefix
from selfalign.pretrain.progress import Journal, load_state, save_state
from selfalign.pretrain.record import record_missing
from selfalign.pretrain.schedule import one_cycle
from selfalign.pretrain.stage1 import (
    Stage1Data,
    TrainingData,
    canonical_share,
    compiled,
    outer_and_inner,
)
from selfalign.pretrain.start import policy_of, recorded

_FROZEN = ("vision.", "embed_tokens.", "language.")
_EVALUATED = 8


def pretrain(config: PretrainConfig, run: Path) -> Path:
    """Do what is still missing of a run and return the directory of the finished model."""
    run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    config = recorded(config, run)
    if config.data is not None:
        policy = policy_of(config)
        train_stage1(config, run, policy, open_dataset(config, run, policy))
        return run / "model"
    record_missing(config.record, run)
    keeps = config.init is not None and not config.prefix.with_init
    policy = policy_of(config) if keeps else prefix_policy(config, run)
    train_stage1(config, run, policy, open_data(config, run, policy))
    return run / "model"


def prefix_policy(config: PretrainConfig, run: Path) -> Policy:
    """A policy whose prefix is trained; trains it first when `run/prefix` does not exist."""
    torch.manual_seed(config.seed)
    policy = Policy(config.model) if config.init is None else policy_of(config)
    if not (run / "prefix" / "model.safetensors").exists():
        train_prefix(config, run, policy)
        save_policy(policy, run / "prefix")
    seen = load_policy(run / "prefix").state_dict()
    policy.load_state_dict({k: v for k, v in seen.items() if k.startswith(_FROZEN)}, strict=False)
    return policy


def open_data(config: PretrainConfig, run: Path, policy: Policy) -> Stage1Data:
    """The recording with its prefix cache; builds the cache when it is missing."""
    recording = Recording(run / "recording")
    path = run / "prefix_cache.safetensors"
    if not path.exists():
        build_cache(policy, recording).save(path)
    cache = PrefixCache.load(path, config.model.vision.tokens)
    labelled = open_labelled(config, run, policy, recording) if config.stage1.hindsight else None
    return Stage1Data(policy, recording, cache, config.record.held_out_groups, labelled)


def open_labelled(
    config: PretrainConfig, run: Path, policy: Policy, recording: Recording
) -> LabelledPlay:
    """Play labelled for the policy, with its prefix cache; builds the cache when it is missing."""
    settings, path = config.stage1, run / "hindsight_cache.safetensors"
    hindsight = label_play(recording, config.model.horizon, settings.hindsight_colours, config.seed)
    if not path.exists():
        hindsight_cache(policy, recording, hindsight).save(path)
    cache = PrefixCache.load(path, config.model.vision.tokens)
    return LabelledPlay(hindsight, cache, settings.hindsight)


@final
class InnerLoop:
    """Trunk, optimiser and pool of the persistent inner loop, and one iteration of it."""

    def __init__(
        self, config: Stage1Config, seed: int, policy: Policy, data: TrainingData[Any]
    ) -> None:
        policy.use_eager_attention(True)
        self.config = config
        self.policy = policy
        if config.gate_closed:
            close_gates(policy)
        self.trunk = trunk_of(policy, gates=not config.gate_closed)
        self.optimiser = torch.optim.AdamW(
            self.trunk.values(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.pool = Pool[Any](
            config,
            policy.base_w(),
            lambda seed, group_seed, canonical: data.draw(seed, group_seed, canonical, config),
            np.random.default_rng((seed, 2)),
        )
        self._data = data
        self._seed = seed
        self._losses = AlignmentLosses(config.inner)

    def step(self, iteration: int) -> dict[str, float]:
        """One step of the trunk and of the deltas of some slots. Returns the losses."""
        config, pool = self.config, self.pool
        rng = np.random.default_rng((self._seed, 3, iteration))
        progress = iteration / config.iterations
        one_cycle(self.optimiser, config.learning_rate, progress, config.warmup)
        slots = pool.choose()
        chosen = [pool.embodiments[i] for i in slots.tolist()]
        self.optimiser.zero_grad(set_to_none=True)
        with compiled(self.policy, enabled=config.compile):
            losses = outer_and_inner(
                self.policy, self._losses, self._data, chosen, pool.delta.select(slots), config, rng
            )
            losses.total.backward()
        nn.utils.clip_grad_norm_(self.trunk.values(), config.gradient_clip)
        self.optimiser.step()
        pool.update(slots, losses.slot_gradient(), canonical_share(config, progress))
        return losses.metrics

    def resume(self, run: Path) -> int:
        """Take over the state that a stopped run left; returns the iteration to go on with."""
        done, pool_state = load_state(run / "stage1_state", self.trunk, self.optimiser)
        if pool_state:
            self.pool.restore(pool_state)
        return done

    def save(self, run: Path, done: int) -> None:
        """Write `run/model`, then the state after `done` iterations."""
        save_policy(self.policy, run / "model")
        save_state(run / "stage1_state", self.trunk, self.optimiser, done, self.pool.state())


def trunk_of(policy: Policy, *, gates: bool = True) -> nn.ParameterDict:
    """What stage 1b trains: all but vision and prefix. W0 is part of it, `gates` of TTT may be."""
    trained = {
        k.replace(".", "/"): p
        for k, p in policy.named_parameters()
        if not k.startswith(_FROZEN) and (gates or not k.endswith(".ttt.gate"))
    }
    return nn.ParameterDict(trained)


def close_gates(policy: Policy) -> None:
    """Let a policy act as if it had no TTT layers, whatever W is."""
    for module in policy.modules():
        if isinstance(module, TTTLayer):
            identity_gate(module)


def train_stage1(
    config: PretrainConfig, run: Path, policy: Policy, data: TrainingData[Any]
) -> None:
    """The inner loop; writes `run/model` at every checkpoint and at the end."""
    total = config.stage1.iterations
    loop = InnerLoop(config.stage1, config.seed, policy, data)
    start = loop.resume(run)
    with Journal(run / "log.jsonl", "stage1", total, start, config.log_every) as journal:
        for iteration in range(start, total):
            journal.add(iteration, loop.step(iteration))
            done = iteration + 1
            if done % config.evaluate_every == 0 or done == total:
                evaluate(config, policy, data, journal, done)
            if done % config.checkpoint_every == 0 or done == total:
                loop.save(run, done)


def evaluate(
    config: PretrainConfig,
    policy: Policy,
    data: TrainingData[Any],
    journal: Journal,
    iteration: int,
) -> None:
    """Log the adaptation curve on held-out embodiments of every family."""
    held_out = data.held_out(config.stage1, _EVALUATED, config.seed)
    for family, embodiments in held_out.items():
        for point in adaptation_curve(policy, data, embodiments, config.stage1):
            at = f"held_out/{family}/{point.steps}"
            metrics = {f"{at}/{k.split('/')[-1]}": v for k, v in point.metrics.items()}
            journal.write(iteration, {f"{at}/action_error": point.action_error, **metrics})
