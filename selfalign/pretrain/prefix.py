"""Stage 1a: train vision tower and prefix to see, on key points of simulated frames.

Two supervisors, both thrown away but for the first, which becomes the frozen vision feature:
the feature readout regresses every key point from the image tokens; a small readout expert, of the
same kind as the action expert, reads them through the prefix's keys and values, among them the
object that the instruction names. So the keys and values hold what an expert can use.

Shape key: B batch, K key points, Q queries, D expert width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from selfalign.align.augment_appearance import AppearanceAugmentation
from selfalign.data.recording import Recording
from selfalign.model.gemma import GemmaStack
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from selfalign.pretrain.config import PrefixConfig, PretrainConfig
from selfalign.pretrain.pixels import to_pixels
from selfalign.pretrain.progress import Journal, load_state, save_state
from selfalign.pretrain.schedule import one_cycle

# Key points are centred and scaled to about unit spread: u, v [image width], depth [m].
_CENTRE = (0.5, 0.5, 1.1)
_SCALE = (0.25, 0.25, 0.2)
_FIRST_CUBE = 6
_COLOURS = ("red", "green", "blue")
_TEMPLATES = ("touch the {} cube", "lift the {} cube", "push the {} cube forward")
_NO_PROMPT_SHARE = 0.3
# Far outside the picture a key point can only be guessed: do not chase it.
_LIMIT = 3.0
# Points that hardly move would turn the noise of the readout into loss.
_LEAST_SPREAD = 0.1


@final
@dataclass(frozen=True)
class Frames:
    """Images and normalised key points of all recorded and single frames."""

    sources: list[tuple[NDArray[np.uint8], NDArray[np.float32]]]

    @property
    def total(self) -> int:
        """Number of frames."""
        return sum(len(images) for images, _ in self.sources)

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Images [B, 3, S, S] in [-1, 1] and key points [B, K, 3]."""
        share = np.array([len(images) for images, _ in self.sources]) / self.total
        images, points = [], []
        for (source, targets), n in zip(self.sources, rng.multinomial(count, share), strict=True):
            rows = np.sort(rng.integers(len(source), size=n))
            images.append(source[rows])
            points.append(targets[rows])
        return to_pixels(np.concatenate(images)), torch.from_numpy(np.concatenate(points))


def load_frames(run: Path, held_out_groups: int) -> Frames:
    """Open the recording and the single frames of a run; leaves held-out groups out."""
    recording = Recording(run / "recording")
    groups = np.array([e["group"] for e in recording.episodes])
    kept = groups < groups.max() + 1 - held_out_groups
    rows = np.flatnonzero(kept[recording["episode"]])
    # Copied into memory: random reads from a cold map are ten times slower than training.
    images = np.asarray(recording["images"][rows])
    sources = [(images, normalise_points(recording["keypoints"][rows]))]
    if (run / "frames").is_dir():
        images = np.load(run / "frames" / "images.npy")
        sources.append((images, normalise_points(np.load(run / "frames" / "keypoints.npy"))))
    return Frames(sources)


def normalise_points(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(u, v, depth) to about unit spread, clipped where they lie far outside the picture."""
    scaled = (points - np.array(_CENTRE)) / np.array(_SCALE)
    return scaled.clip(-_LIMIT, _LIMIT).astype(np.float32)


@final
class PrefixReadout(nn.Module):
    """Queries that read the prefix as the action expert will. Only used in stage 1a."""

    def __init__(self, policy: Policy, queries: int, keypoints: int) -> None:
        super().__init__()
        width = policy.config.action.width
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.5)
        self.expert = GemmaStack(policy.config.action)
        self.points = nn.Linear(width, 3 * keypoints)
        self.target = nn.Linear(width, 6)

    def forward(self, prefix: Prefix) -> tuple[Tensor, Tensor]:
        """All key points [B, K, 3]; the named object, and it relative to the tool [B, 2, 3]."""
        batch, n = len(prefix), len(self.queries)
        own = torch.ones(batch, n, n, dtype=torch.bool)
        mask = torch.cat([prefix.mask[:, None].expand(-1, n, -1), own], dim=2)
        positions = prefix.lengths[:, None] + torch.arange(n)
        x = self.queries.expand(batch, -1, -1)
        hidden = self.expert(x, positions, mask, prefix=prefix.layers()).hidden
        return self.points(hidden[:, 0]).unflatten(-1, (-1, 3)), self.target(
            hidden[:, -1]
        ).unflatten(-1, (2, 3))


def other_looks(images: Tensor, settings: PrefixConfig, rng: np.random.Generator) -> Tensor:
    """Show a share of the images [B, 3, S, S] in other light, colours and sharpness."""
    count = round(settings.appearance_share * len(images))
    if not count:
        return images
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    # Not the first ones: a batch is sorted by where its frames come from.
    chosen = torch.randperm(len(images), generator=generator)[:count]
    changed = AppearanceAugmentation(settings.appearance)(images[chosen], generator)
    return images.index_copy(0, chosen, changed)


def prompts(rng: np.random.Generator, count: int) -> tuple[list[str], NDArray[np.int64]]:
    """Random instructions and the colour that each names; -1 for the empty prompt."""
    colours = rng.integers(len(_COLOURS), size=count)
    colours[rng.random(count) < _NO_PROMPT_SHARE] = -1
    templates = rng.integers(len(_TEMPLATES), size=count)
    texts = [
        "" if c < 0 else _TEMPLATES[t].format(_COLOURS[c])
        for c, t in zip(colours, templates, strict=True)
    ]
    return texts, colours


def losses(
    policy: Policy, readout: PrefixReadout, images: Tensor, points: Tensor, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The losses of one batch: `feature`, `points`, `target`."""
    texts, colours = prompts(rng, len(images))
    tokens, mask = policy.prompts.encode(texts)
    cameras = torch.ones(len(images), 1, dtype=torch.bool)
    prefix = policy.prefix(images[:, None], cameras, tokens, mask)
    seen, target = readout(prefix)
    named = torch.from_numpy(colours)
    rows = torch.arange(len(images))
    cube = points[rows, _FIRST_CUBE + named.clamp_min(0)]
    wanted = torch.stack([cube, cube - points[:, 0]], dim=1)
    told = (named >= 0).float()[:, None, None]
    return {
        "feature": _loss(prefix.features[:, 0].unflatten(-1, (-1, 3)), points).mean(),
        "points": _loss(seen, points).mean(),
        "target": (_loss(target, wanted) * told).mean() / told.mean().clamp_min(0.1),
    }


def _loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    return F.smooth_l1_loss(predicted.float(), wanted, beta=0.1, reduction="none")


def train_prefix(config: PretrainConfig, run: Path, policy: Policy) -> None:
    """Train the prefix in place; goes on from `run/prefix_state.safetensors` when it exists."""
    settings, total = config.prefix, config.prefix.iterations
    frames = load_frames(run, config.record.held_out_groups)
    readout = PrefixReadout(policy, settings.queries, config.model.feature_dim // 3)
    modules = nn.ModuleDict(
        {"vision": policy.vision, "language": policy.language, "readout": readout}
    )
    modules["embed"] = policy.embed_tokens
    policy.use_eager_attention(True)
    readout.expert.use_eager_attention(True)
    optimiser = torch.optim.AdamW(
        modules.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    start, _ = load_state(run / "prefix_state", modules, [optimiser])
    with Journal(run / "log.jsonl", "prefix", total, start, config.log_every) as journal:
        for iteration in range(start, total):
            rng = np.random.default_rng((config.seed, 1, iteration))
            one_cycle(optimiser, settings.learning_rate, iteration / total, settings.warmup)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
                images, points = frames.sample(rng, settings.batch_size)
                images = other_looks(images, settings, rng)
                parts = losses(policy, readout, images, points, rng)
            _descend(optimiser, modules, torch.stack(list(parts.values())).sum())
            journal.add(iteration, {name: float(value.detach()) for name, value in parts.items()})
            if (iteration + 1) % config.checkpoint_every == 0 or iteration + 1 == total:
                save_state(run / "prefix_state", modules, [optimiser], iteration + 1)
    measure_spread(policy, frames, np.random.default_rng(config.seed))


def _descend(optimiser: torch.optim.Optimizer, modules: nn.Module, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
    optimiser.step()


@torch.no_grad()
def measure_spread(policy: Policy, frames: Frames, rng: np.random.Generator) -> None:
    """Set the unit of the dynamics target: how much the key points change over a transition.

    A high quantile and not the mean: most key points rest most of the time.
    """
    images, points = frames.sources[0]
    start = rng.integers(len(images) - policy.config.stride, size=1024)
    start.sort()
    spread = np.abs(points[start + policy.config.stride] - points[start])
    middle = np.quantile(spread.reshape(len(start), -1), 0.8, axis=0)
    policy.vision.readout.spread.copy_(torch.from_numpy(middle).float().clamp_min(_LEAST_SPREAD))
