"""Stage 1 from a configuration to a model directory: record, prefix, cache, inner loop.

Every part is skipped when its result is there, and goes on where it was stopped.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn

from selfalign.align.losses import AlignmentLosses
from selfalign.data.recording import Recording
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.policy import Policy
from selfalign.pretrain.cache import PrefixCache, build_cache
from selfalign.pretrain.config import PretrainConfig
from selfalign.pretrain.evaluate import adaptation_curve, held_out_embodiments
from selfalign.pretrain.pool import Pool
from selfalign.pretrain.prefix import train_prefix
from selfalign.pretrain.progress import Journal, load_state, save_state
from selfalign.pretrain.record import record_frames, record_groups
from selfalign.pretrain.schedule import one_cycle
from selfalign.pretrain.stage1 import Stage1Data, canonical_share, outer_and_inner

logger = logging.getLogger(__name__)
_FROZEN = ("vision.", "embed_tokens.", "language.")
_EVALUATED = 24


def pretrain(config: PretrainConfig, run: Path) -> Path:
    """Do what is still missing of a run and return the directory of the finished model."""
    run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    (run / "config.json").write_text(config.model_dump_json(indent=2), encoding="utf-8")
    if not (run / "recording" / "episodes.json").exists():
        record_groups(config.record, run / "recording")
    if config.record.frames and not (run / "frames" / "keypoints.npy").exists():
        record_frames(config.record, run / "frames")
    policy = prefix_policy(config, run)
    data = open_data(config, run, policy)
    train_stage1(config, run, policy, data)
    return run / "model"


def prefix_policy(config: PretrainConfig, run: Path) -> Policy:
    """A policy whose prefix is trained; trains it first when `run/prefix` does not exist."""
    torch.manual_seed(config.seed)
    policy = Policy(config.model)
    if not (run / "prefix" / "model.safetensors").exists():
        train_prefix(config, run, policy)
        save_policy(policy, run / "prefix")
    seen = load_policy(run / "prefix").state_dict()
    policy.load_state_dict({k: v for k, v in seen.items() if k.startswith(_FROZEN)}, strict=False)
    return policy


def open_data(config: PretrainConfig, run: Path, policy: Policy) -> Stage1Data:
    """The recording with its prefix cache; builds the cache when it is missing or stale."""
    recording = Recording(run / "recording")
    path = run / "prefix_cache.safetensors"
    if not path.exists():
        build_cache(policy, recording).save(path)
    cache = PrefixCache.load(path, config.model.vision.tokens)
    return Stage1Data(policy, recording, cache, config.record.held_out_groups)


def train_stage1(config: PretrainConfig, run: Path, policy: Policy, data: Stage1Data) -> None:
    """The inner loop; writes `run/model` at every checkpoint and at the end."""
    settings = config.stage1
    trained = nn.ParameterDict(
        {k.replace(".", "/"): p for k, p in policy.named_parameters() if not k.startswith(_FROZEN)}
    )
    policy.use_eager_attention(True)
    optimiser = torch.optim.AdamW(
        trained.values(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    rng = np.random.default_rng((config.seed, 2))
    pool = Pool(
        settings,
        policy.base_w(),
        lambda seed, canonical: data.draw(seed, canonical, settings),
        rng,
    )
    start, pool_state = load_state(run / "stage1_state", trained, optimiser)
    if pool_state:
        pool.restore(pool_state)
    losses = AlignmentLosses(settings.inner)
    journal = Journal(run / "log.jsonl", "stage1", settings.iterations, start, config.log_every)
    for iteration in range(start, settings.iterations):
        rng = np.random.default_rng((config.seed, 3, iteration))
        progress = iteration / settings.iterations
        one_cycle(optimiser, settings.learning_rate, progress, settings.warmup)
        slots = pool.choose()
        chosen = [pool.embodiments[i] for i in slots.tolist()]
        total, report, action, leaf = outer_and_inner(
            policy, losses, data, chosen, pool.delta.select(slots), settings, rng
        )
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(trained.values(), settings.gradient_clip)
        optimiser.step()
        # The trunk's loss is a mean over slots; a slot's own gradient must not be divided by them.
        gradient = leaf.map(lambda t: t.grad * len(chosen))
        pool.update(slots, gradient, canonical_share(settings, progress))
        journal.add(iteration, {"action": float(action.detach()), **report.metrics})
        done = iteration + 1
        if done % config.evaluate_every == 0 or done == settings.iterations:
            evaluate(config, policy, data, journal, done)
        if done % config.checkpoint_every == 0 or done == settings.iterations:
            save_state(run / "stage1_state", trained, optimiser, done, pool.state())
            save_policy(policy, run / "model")


def evaluate(
    config: PretrainConfig, policy: Policy, data: Stage1Data, journal: Journal, iteration: int
) -> None:
    """Log the adaptation curve on held-out embodiments of every family."""
    for family in ("tool_canonical", *config.stage1.families):
        embodiments = held_out_embodiments(data, family, _EVALUATED, config.seed)
        for point in adaptation_curve(policy, data, embodiments, config.stage1):
            at = f"held_out/{family}/{point.steps}"
            metrics = {f"{at}/{k.split('/')[-1]}": v for k, v in point.metrics.items()}
            journal.write(iteration, {f"{at}/action_error": point.action_error, **metrics})
