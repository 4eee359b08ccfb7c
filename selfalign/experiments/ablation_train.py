"""Stage 1 of an ablation: every variant trained from the same start on the same recording.

What costs most, the recording and its prefix cache, is made once in a shared directory that the
runs link. A run that was stopped goes on; one that is finished is not run again.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from torch import Tensor

from selfalign.data.recording import Recording
from selfalign.errors import ModelError
from selfalign.experiments.peak_memory import peak_mb, reset_peak
from selfalign.experiments.settings import model_sha256
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.policy import Policy
from selfalign.pretrain.cache import encode_rows
from selfalign.pretrain.config import PretrainConfig
from selfalign.pretrain.record import record_missing
from selfalign.pretrain.start import policy_of
from selfalign.pretrain.trainer import open_data, prefix_policy, pretrain

Start = Literal["prefix", "model", "nothing"]
STARTS: Final[tuple[Start, ...]] = ("prefix", "model", "nothing")

_PREFIX: Final = ("vision.", "embed_tokens.", "language.")
_RECORDED: Final = ("recording", "frames", "prefix")
_CACHES: Final = ("prefix_cache.safetensors", "hindsight_cache.safetensors")
_COST: Final = "cost.json"
_CHECKED_ROWS: Final = 4
# Prefixes are kept as half floats.
_CACHE_TOLERANCE: Final = 0.05


@final
class StaleCache(ModelError):
    """A shared directory holds prefixes of another model than the one that training starts from."""


@final
class WrongPrefix(ModelError):
    """The model to start from has another prefix than the configuration asks for."""


@final
class Cost(BaseModel):
    """What the training of a variant took, over all the times that it was gone on with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float | None = None
    iterations: int = 0
    is_done: bool = False

    @classmethod
    def of(cls, run: Path) -> "Cost":
        """What a run directory says."""
        file = run / _COST
        return cls.model_validate_json(file.read_text("utf-8")) if file.exists() else cls()


@final
@dataclass(frozen=True)
class Training:
    """Where an ablation trains, and from where every variant starts.

    Args:
        directory: Where run directories go.
        start: `prefix` takes vision and prefix of `source` and draws all else anew; `model` takes
            every weight that fits; `nothing` trains the prefix as well.
        source: The model directory to start from; not read for `nothing`.
        shared: A directory with a recording and caches to link; made in `directory` if None.
    """

    directory: Path
    start: Start
    source: Path
    shared: Path | None = None

    def run_of(self, config: PretrainConfig) -> Path:
        """The run directory of a configuration; equal ones, of whatever axis, share it."""
        return self._named("run", config.model_dump_json(), str(self.shared))

    def _named(self, kind: str, *parts: str) -> Path:
        given = "" if self.start == "nothing" else model_sha256(self.source)
        text = json.dumps([*parts, self.start, given])
        return self.directory / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def train(self, config: PretrainConfig, common: PretrainConfig) -> Path:
        """The model directory of a variant, trained as far as it is not yet.

        Args:
            config: Of the variant.
            common: What it is varied from; the shared directory is made for it.

        Raises:
            StaleCache: the shared directory was made with another prefix.
        """
        run = self.run_of(config)
        if Cost.of(run).is_done:
            return run / "model"
        shared = self._share(common)
        run.mkdir(parents=True, exist_ok=True)
        _link(shared, run)
        _pretrain(self._started(config, run), run)
        return run / "model"

    def _share(self, common: PretrainConfig) -> Path:
        """The shared directory, made where it is not there."""
        shared = self.shared or self._named("shared", *_shared_settings(common))
        shared.mkdir(parents=True, exist_ok=True)
        config = self._started(common, self.run_of(common))
        record_missing(config.record, shared)
        policy = prefix_policy(config, shared) if config.init is None else policy_of(config)
        wanted = _CACHES if config.stage1.hindsight else _CACHES[:1]
        if all((shared / name).exists() for name in wanted):
            _check_cache(policy, shared)
        else:
            open_data(config, shared, policy)
        return shared

    def _started(self, config: PretrainConfig, run: Path) -> PretrainConfig:
        """The configuration with its start, which has the geometry of the variant."""
        if self.start == "nothing":
            return config.model_copy(update={"init": None})
        start = run / "start"
        if not (start / "model.safetensors").exists():
            save_policy(start_policy(config, self.source, self.start), start)
        # Single frames are for the prefix, which is trained already and stays.
        record = config.record.model_copy(update={"frames": 0})
        prefix = config.prefix.model_copy(update={"with_init": False})
        return config.model_copy(update={"init": str(start), "record": record, "prefix": prefix})


def _shared_settings(config: PretrainConfig) -> list[str]:
    """All that a recording, its prefix and its caches depend on."""
    stage1 = config.stage1
    labels = [config.model.horizon, stage1.hindsight_colours, stage1.hindsight > 0]
    parts = [config.record, config.prefix, config.model.vision, config.model.language]
    return [*(part.model_dump_json() for part in parts), json.dumps([config.seed, *labels])]


def start_policy(config: PretrainConfig, source: Path, start: Start) -> Policy:
    """A policy of the geometry of a configuration with the weights of another that fit it.

    W0 goes along layer by layer. What does not fit, or is not to be taken, is drawn from the seed.

    Raises:
        WrongPrefix: its prefix does not fit: a start without it would be one from nothing.
    """
    held = load_policy(source, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = Policy(config.model, held.prompts.tokenizer, held.processing)
    own, given = policy.state_dict(), dict(held.state_dict())
    given |= _w0_of_layers(held, policy)
    taken = {
        name: tensor
        for name, tensor in given.items()
        if (start == "model" or name.startswith(_PREFIX))
        and name in own
        and own[name].shape == tensor.shape
    }
    alien = [name for name in own if name.startswith(_PREFIX) and name not in taken]
    if alien:
        raise WrongPrefix(
            f"{source} does not fit the prefix of configuration {config.name!r}: {alien[0]} and "
            f"{len(alien) - 1} more; give the model that the configuration is made for, or "
            "--start nothing"
        )
    policy.load_state_dict(own | taken)
    return policy


def _w0_of_layers(held: Policy, policy: Policy) -> dict[str, Tensor]:
    """W0 of the layers that carry W in both; nothing where one of them has none to give."""
    have, want = held.config.ttt_layers, policy.config.ttt_layers
    if not set(want) <= set(have):
        return {}
    rows = [have.index(layer) for layer in want]
    return {"w0_W1": held.w0_W1[rows], "w0_b1": held.w0_b1[rows]}


def _link(shared: Path, run: Path) -> None:
    for name in (*_RECORDED, *_CACHES):
        if (shared / name).exists() and not (run / name).exists():
            (run / name).symlink_to((shared / name).resolve())


def _pretrain(config: PretrainConfig, run: Path) -> None:
    """Train, and add up what it takes even if it is stopped."""
    before, is_done = Cost.of(run), False
    if config.stage1.compile:
        # Else what the variants before have compiled counts towards the limit of recompilations.
        torch.compiler.reset()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    reset_peak()
    try:
        pretrain(config, run)
        is_done = True
    finally:
        peaks = [value for value in (before.peak_mb, peak_mb()) if value is not None]
        cost = Cost(
            seconds=before.seconds + time.perf_counter() - wall_s,
            cpu_seconds=before.cpu_seconds + time.process_time() - cpu_s,
            peak_mb=max(peaks, default=None),
            iterations=config.stage1.iterations,
            is_done=is_done,
        )
        (run / _COST).write_text(cost.model_dump_json(indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def _check_cache(policy: Policy, shared: Path) -> None:
    """Encode a few rows again, since a cache does not say which model it was made with."""
    recording = Recording(shared / "recording")
    rows = np.linspace(0, len(recording) - 1, _CHECKED_ROWS).astype(np.int64)
    texts = [("" if e["kind"] == "play" else e["instruction"]) for e in recording.episodes]
    fresh = encode_rows(policy, recording, rows, texts, np.asarray(recording["episode"])[rows])
    file = shared / _CACHES[0]
    with safe_open(file, "pt") as tensors:
        held = tensors.get_slice("key_values")
        shape = held.get_shape()
        is_equal = shape[0] == len(recording) and shape[1:] == list(fresh.key_values.shape[1:])
        for row, tensor in zip(rows.tolist(), fresh.key_values, strict=True):
            is_equal = is_equal and torch.allclose(
                held[row : row + 1][0].float(), tensor.float(), rtol=0, atol=_CACHE_TOLERANCE
            )
    if not is_equal:
        raise StaleCache(
            f"{file} holds prefixes of another model or recording than training starts from; "
            "remove it, or give the model whose prefix it was made with"
        )
