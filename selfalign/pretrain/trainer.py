"""Stage 1 from a configuration to a model directory: record, prefix, cache, inner loop.

Every part is skipped when its result is there, and goes on where it was stopped.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from selfalign.data.recording import IMAGE_SIZE, Recording
from selfalign.errors import ModelError
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.policy import Policy
from selfalign.pretrain.cache import PrefixCache, build_cache
from selfalign.pretrain.config import PretrainConfig
from selfalign.pretrain.contrastive import contrast_of
from selfalign.pretrain.dataset import open_dataset
from selfalign.pretrain.evaluate import adaptation_curve
from selfalign.pretrain.hindsight import LabelledPlay, hindsight_cache, label_play
from selfalign.pretrain.inner_loop import FROZEN, InnerLoop
from selfalign.pretrain.prefix import train_prefix
from selfalign.pretrain.processes import Processes
from selfalign.pretrain.progress import Journal
from selfalign.pretrain.record import record_missing
from selfalign.pretrain.stage1_data import Stage1Data, TrainingData
from selfalign.pretrain.start import policy_of, recorded


def pretrain(config: PretrainConfig, run: Path, processes: Processes | None = None) -> Path:
    """Do what is still missing of a run and return the directory of the finished model.

    Of several processes the first one prepares and writes; all of them see the same directory.
    """
    processes = processes or Processes()
    torch.set_num_threads(config.threads)
    if not processes.is_first:
        processes.wait()
    policy, data = prepare(config, run, processes)
    if processes.is_first:
        processes.wait()
    train_stage1(config, run, policy, data, processes)
    processes.wait()
    return run / "model"


def prepare(
    config: PretrainConfig, run: Path, processes: Processes
) -> tuple[Policy, TrainingData[Any]]:
    """Policy and data of the inner loop; makes what is missing of recording, prefix and caches."""
    if processes.is_first:
        run.mkdir(parents=True, exist_ok=True)
        config = recorded(config, run)
    if config.data is not None:
        policy = policy_of(config).to(processes.device)
        return policy, open_dataset(config, run, policy)
    side = config.model.vision.image_size
    if side != IMAGE_SIZE:
        raise ModelError(
            f"model {config.model.variant!r} sees {side} x {side} pixels, the simulator records "
            f"{IMAGE_SIZE} x {IMAGE_SIZE}; give a LeRobotDataset with --data"
        )
    record_missing(config.record, run)
    keeps = config.init is not None and not config.prefix.with_init
    policy = policy_of(config) if keeps else prefix_policy(config, run)
    policy.to(processes.device)
    return policy, open_data(config, run, policy)


def prefix_policy(config: PretrainConfig, run: Path) -> Policy:
    """A policy whose prefix is trained; trains it first when `run/prefix` does not exist."""
    torch.manual_seed(config.seed)
    policy = Policy(config.model) if config.init is None else policy_of(config)
    if not (run / "prefix" / "model.safetensors").exists():
        train_prefix(config, run, policy)
        save_policy(policy, run / "prefix")
    seen = load_policy(run / "prefix").state_dict()
    policy.load_state_dict({k: v for k, v in seen.items() if k.startswith(FROZEN)}, strict=False)
    return policy


def open_data(config: PretrainConfig, run: Path, policy: Policy) -> Stage1Data:
    """The recording with its prefix cache; builds the cache when it is missing."""
    recording = Recording(run / "recording")
    path = run / "prefix_cache.safetensors"
    if not path.exists():
        build_cache(policy, recording, path)
    cache = PrefixCache.load(path, config.model.vision.tokens)
    labelled = open_labelled(config, run, policy, recording) if config.stage1.hindsight else None
    held_out, most = config.record.held_out_groups, config.stage1.most_weight
    return Stage1Data(policy, recording, cache, held_out, labelled, most_weight=most)


def open_labelled(
    config: PretrainConfig, run: Path, policy: Policy, recording: Recording
) -> LabelledPlay:
    """Play labelled for the policy, with its prefix cache; builds the cache when it is missing.

    What is labelled goes by the seed of the recording: runs of several seeds share the cache.
    """
    settings, path = config.stage1, run / "hindsight_cache.safetensors"
    hindsight = label_play(
        recording,
        config.model.horizon,
        settings.hindsight_colours,
        config.record.seed,
        config.record.tasks,
    )
    if not path.exists():
        hindsight_cache(policy, recording, hindsight, path)
    cache = PrefixCache.load(path, config.model.vision.tokens)
    return LabelledPlay(hindsight, cache, settings.hindsight)


def train_stage1(
    config: PretrainConfig,
    run: Path,
    policy: Policy,
    data: TrainingData[Any],
    processes: Processes | None = None,
) -> None:
    """The inner loop; writes `run/model` at every checkpoint and at the end."""
    processes = processes or Processes()
    total = config.stage1.iterations
    contrast = contrast_of(config.stage1, config.seed, policy, data)
    loop = InnerLoop(config.stage1, config.seed, policy, data, processes=processes, extra=contrast)
    start = loop.resume(run)
    log = run / "log.jsonl" if processes.is_first else None
    with Journal(log, "stage1", total, start, config.log_every) as journal, closing(loop):
        for iteration in range(start, total):
            journal.add(iteration, loop.step(iteration))
            done = iteration + 1
            # The others go on to their next sum and wait there.
            if not processes.is_first:
                continue
            if done % config.evaluate_every == 0 or done == total:
                with loop.averaged():
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
    held_out = data.held_out(config.stage1, config.evaluate_on, config.seed)
    for family, embodiments in held_out.items():
        for point in adaptation_curve(policy, data, embodiments, config.stage1):
            at = f"held_out/{family}/{point.steps}"
            metrics = {f"{at}/{k.split('/')[-1]}": v for k, v in point.metrics.items()}
            journal.write(iteration, {f"{at}/action_error": point.action_error, **metrics})
