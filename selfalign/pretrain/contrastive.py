"""The contrastive loss in stage 1: where its three views of play come from.

Positives are encoded anew in every iteration, since their prefixes are in no cache: two frames of
each transition of a few slots. Negatives share the cached prefixes; only their actions differ.

Shape key: n embodiments, m transitions of each, K negatives, B = n * m, k stride, S image side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfalign.align.augment_appearance import AppearanceAugmentation
from selfalign.align.augment_embodiment import EmbodimentAugmentation, normalised
from selfalign.align.batch import TransitionBatch
from selfalign.align.contrastive import EmbodimentContrastiveLoss
from selfalign.align.losses import AlignmentLosses
from selfalign.align.targets import aligned_numbers
from selfalign.data.spec import Dimension
from selfalign.errors import ModelError
from selfalign.model.gemma import GemmaLayer
from selfalign.model.policy import Policy
from selfalign.model.prefix import Features, Prefix
from selfalign.model.weights import FastWeights
from selfalign.pretrain.batches import moved
from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.embodiments import Embodiment
from selfalign.pretrain.inner_loop import trunk_of
from selfalign.pretrain.pixels import to_pixels
from selfalign.pretrain.stage1_data import Stage1Data, TrainingData
from selfalign.sim.action_spaces import WORKSPACE_HIGH, WORKSPACE_LOW
from selfalign.sim.arm_chain import chain_of
from selfalign.sim.scene import OPENING_MAX_M

Views = tuple[TransitionBatch, TransitionBatch, TransitionBatch]

# What recorded motion asks for: tool targets in the base frame, and the fingers.
_RECORDED = (
    *(
        Dimension(name=f"tool_{axis}", unit="m", low=float(low), high=float(high))
        for axis, low, high in zip("xyz", WORKSPACE_LOW, WORKSPACE_HIGH, strict=True)
    ),
    Dimension(name="gripper_opening", unit="m", low=0.0, high=OPENING_MAX_M),
)


@final
class StageOneContrast:
    """An `ExtraLoss` of the inner loop. Holds no state from one iteration to the next."""

    def __init__(self, config: Stage1Config, seed: int, policy: Policy, data: Stage1Data) -> None:
        self._config, self._seed = config, seed
        self._policy, self._data = policy, data
        self._loss = EmbodimentContrastiveLoss(AlignmentLosses(config.inner), config.contrastive)
        self._appearance = AppearanceAugmentation(config.contrastive.appearance)

    def backward(
        self, embodiments: list[Any], delta: FastWeights, iteration: int
    ) -> dict[str, float]:
        """Add the gradient of some slots' loss to the trunk and to W0; delta is held constant."""
        # 3 numbers the draws of slots, 4 these.
        rng = np.random.default_rng((self._seed, 4, iteration))
        count = min(self._config.contrastive.slots, len(embodiments))
        chosen = np.sort(rng.choice(len(embodiments), count, replace=False))
        views = self.views([embodiments[i] for i in chosen], rng)
        w = delta.detach().select(torch.from_numpy(chosen).to(delta.W1.device))
        with _twice_differentiable(self._policy):
            full = w.combine(self._policy.live_w0(), torch.add)
            report = self._loss(self._policy, *views, full)
            norm = self._add_gradient(self._config.lambda_contrastive * report.loss)
        return report.metrics | {"contrastive/gradient": norm}

    def _add_gradient(self, loss: Tensor) -> float:
        """Add the gradient of a loss to the trunk's, clipped by itself; its norm before.

        Where positives are far from anchors it is ten times that of all other losses, and clipping
        the sum would leave nothing of these.
        """
        trunk = list(trunk_of(self._policy).values())
        found = torch.autograd.grad(loss, trunk, allow_unused=True)
        pairs = [(p, g) for p, g in zip(trunk, found, strict=True) if g is not None]
        norm = torch.stack([g.norm() for _, g in pairs]).norm()
        share = (self._config.contrastive.gradient_clip / norm.clamp_min(1e-12)).clamp_max(1.0)
        for parameter, gradient in pairs:
            own = gradient * share
            parameter.grad = own if parameter.grad is None else parameter.grad + own
        return float(norm)

    def views(self, embodiments: list[Embodiment], rng: np.random.Generator) -> Views:
        """Anchor and positive [B] and negatives [K * B] of the same transitions."""
        rows = [rng.choice(e.support, self._config.transitions) for e in embodiments]
        device = self._policy.device
        anchor = moved(self._data.transitions_at(embodiments, rows), device)
        now, following = self._other_looks(np.concatenate(rows), rng)
        positive = replace(anchor, now=now, following=following)
        return anchor, positive, self._renumbered(anchor, embodiments, rows, rng)

    def _other_looks(
        self, at: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Prefix, Features]:
        """Prefixes of frames `at` [B], and features k later, in looks drawn for each transition."""
        policy, generator = self._policy, torch.Generator()
        generator.manual_seed(int(rng.integers(2**62)))
        looks = self._appearance.draw(len(at), generator)
        images = self._data.recording["images"]
        pair = [
            self._appearance.apply(to_pixels(np.array(images[rows])), looks, generator)
            for rows in (at, at + policy.config.stride)
        ]
        now, later = (frames.to(policy.device) for frames in pair)
        camera = torch.ones(len(at), 1, dtype=torch.bool, device=policy.device)
        with torch.no_grad():
            prompt = (part.to(policy.device) for part in policy.prompts.encode([""] * len(at)))
            prefix = policy.prefix(now[:, None], camera, *prompt)
            features = policy.vision(later)[1][:, None]
        return self._as_cached(prefix), Features(features, camera)

    def _as_cached(self, prefix: Prefix) -> Prefix:
        """As it comes out of the cache: half floats, and no more tokens than play needs."""
        length = self._data.play_length
        key_values = prefix.key_values[..., :length, :].half().float()
        return replace(prefix, key_values=key_values, mask=prefix.mask[:, :length])

    def _renumbered(
        self,
        anchor: TransitionBatch,
        embodiments: list[Embodiment],
        rows: list[NDArray[np.int64]],
        rng: np.random.Generator,
    ) -> TransitionBatch:
        """The anchors with the actions of K other robots for each embodiment."""
        negatives, width = self._config.contrastive.num_negative_samples, anchor.actions.shape[-1]
        actions: list[NDArray[np.float32]] = []
        masks: list[NDArray[np.bool_]] = []
        for embodiment, own in zip(embodiments, rows, strict=True):
            for numbers, dimensions in self._numbered(embodiment, own, negatives, rng, width):
                actions.append(numbers)
                mask = aligned_numbers((d.name for d in dimensions), width)
                masks.append(np.tile(mask, (len(own), 1)))
        count = len(rows[0])
        order = torch.arange(len(anchor)).view(-1, 1, count).expand(-1, negatives, -1).flatten()
        return replace(
            anchor.index(order.to(anchor.actions.device)),
            actions=_like(anchor.actions, np.concatenate(actions)),
            action_mask=_like(anchor.action_mask, np.concatenate(masks)),
        )

    def _numbered(
        self,
        embodiment: Embodiment,
        rows: NDArray[np.int64],
        count: int,
        rng: np.random.Generator,
        width: int,
    ) -> Iterator[tuple[NDArray[np.float32], tuple[Dimension, ...]]]:
        """The commands from rows [m] on as `count` other robots number them: [m, k, width] each."""
        recording, arm = self._data.recording, embodiment.group.arm
        at = rows[:, None] + np.arange(self._policy.config.stride)
        opening = recording["gripper_target"][at][..., None]
        motion = np.concatenate([recording["tool_target"][at], opening], axis=-1, dtype=np.float64)
        joints = np.asarray(recording["joints"][at][..., : arm.joint_count], np.float64)
        settings = self._config.contrastive.renumbering
        others = EmbodimentAugmentation(chain_of(arm), "tool_absolute", _RECORDED, settings)
        for other in others.draw(count, rng):
            yield normalised(other, _RECORDED, motion, joints, width)


def contrast_of(
    config: Stage1Config, seed: int, policy: Policy, data: TrainingData[Any]
) -> StageOneContrast | None:
    """The contrastive loss of a run, or None where its weight is 0.

    Raises:
        ModelError: the data are no recording of the simulator, which alone can be renumbered; or W
            is switched off.
    """
    if not config.lambda_contrastive:
        return None
    if config.gate_closed:
        raise ModelError("lambda_contrastive needs W, but gate_closed switches it off; choose one")
    if not isinstance(data, Stage1Data):
        raise ModelError(
            f"lambda_contrastive is {config.lambda_contrastive}, but only the simulator's "
            "recordings have the kinematics that negatives need; set it to 0 with --data"
        )
    return StageOneContrast(config, seed, policy, data)


@contextmanager
def _twice_differentiable(policy: Policy) -> Iterator[None]:
    """Plain attention and no recomputed layers: what has a second derivative."""
    eager = cast("GemmaLayer", policy.action.layers[0]).eager
    kept = policy.action.gradient_checkpointing
    policy.set_gradient_checkpointing(False)
    if not eager:
        policy.use_eager_attention(True)
    try:
        yield
    finally:
        policy.set_gradient_checkpointing(kept)
        if not eager:
            policy.use_eager_attention(False)


def _like(tensor: Tensor, array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array).to(tensor)
