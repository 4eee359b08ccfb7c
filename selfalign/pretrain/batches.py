"""What one pass over some slots takes in: transitions, policy frames, noise and times.

Shape key: n slots, B policy frames, H horizon, A action numbers, s state numbers.
"""

from dataclasses import dataclass
from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from selfalign.align.batch import TransitionBatch
from selfalign.model.flow import sample_time
from selfalign.model.prefix import Features, Prefix
from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.draws import Draws, each
from selfalign.pretrain.stage1_data import PARTS, E, TrainingData


@final
@dataclass(frozen=True, eq=False)
class PolicyFrames:
    """Frames for the action loss: prefix, state [B, s], chunk [B, H, A], and mask [B, A] of the
    numbers that the robot has; with the noise [B, H, A] and time [B] of flow matching, and uniform
    numbers [B] that say how much of a chunk is frozen where the model learns that.
    """

    prefix: Prefix
    state: Tensor
    chunk: Tensor
    mask: Tensor
    noise: Tensor
    time: Tensor
    start: Tensor

    def to(self, device: torch.device) -> Self:
        """These frames on a device."""
        tensors = (self.state, self.chunk, self.mask, self.noise, self.time, self.start)
        return type(self)(self.prefix.to(device), *(t.to(device) for t in tensors))


@final
@dataclass(frozen=True, eq=False)
class SlotBatch:
    """Transitions of n slots, first those that delta is fitted to and then those that judge it,
    and their policy frames. In each part the rows of a slot stand together.
    """

    transitions: TransitionBatch
    frames: PolicyFrames

    def to(self, device: torch.device) -> Self:
        """This batch on a device; itself where it is there already."""
        if self.frames.chunk.device == device:
            return self
        return type(self)(moved(self.transitions, device), self.frames.to(device))


def draw_batch(
    data: TrainingData[E], embodiments: list[E], draws: Draws, config: Stage1Config
) -> SlotBatch:
    """The batch of some embodiments, each by its own generator or all by one."""
    parts = [data.transitions(embodiments, draws, config.transitions, part) for part in PARTS]
    return SlotBatch(TransitionBatch.cat(parts), draw_frames(data, embodiments, draws, config))


def draw_frames(
    data: TrainingData[E], embodiments: list[E], draws: Draws, config: Stage1Config
) -> PolicyFrames:
    """Policy frames of some embodiments with noise and times."""
    prefix, state, chunk, mask = data.policy_frames(embodiments, draws, config.demo_frames)
    shape = (config.demo_frames, *chunk.shape[1:])
    noise, time, start = [], [], []
    for rng in each(draws, len(embodiments)):
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise.append(torch.randn(shape, generator=generator))
        time.append(sample_time(config.demo_frames, generator, torch.device("cpu")))
        start.append(torch.rand(config.demo_frames, generator=generator))
    drawn = (torch.cat(part).to(chunk.device) for part in (noise, time, start))
    return PolicyFrames(prefix, state, chunk, mask, *drawn)


def slot_generators(seed: int, iteration: int, slots: Tensor) -> list[np.random.Generator]:
    """The generator of each slot [n] in an iteration."""
    return [np.random.default_rng((seed, 3, iteration, slot)) for slot in slots.tolist()]


def moved(batch: TransitionBatch, device: torch.device) -> TransitionBatch:
    """Transitions on a device; themselves where they are there already."""
    if batch.state.device == device:
        return batch
    following = Features(
        batch.following.features.to(device), batch.following.feature_mask.to(device)
    )
    rest = (batch.state, batch.actions, batch.state_mask, batch.action_mask)
    return TransitionBatch(batch.now.to(device), following, *(t.to(device) for t in rest))
