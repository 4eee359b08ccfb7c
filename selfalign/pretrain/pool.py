"""The pool of the persistent inner loop: slots, each an embodiment with a W of its own.

A slot's W is W0 + delta. Every visit gives delta one Adam step on the alignment loss alone, by the
very procedure of stage 2; when its lifetime is over the slot is reset to W0 and a new embodiment.

Who is visited and whose life ends does not depend on any gradient. So the next visit can be
planned, and its batches read, while the current one is still being computed; and every process of a
run plans the same visits by itself.

Shape key: G slots, n slots of one iteration.
"""

import json
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from selfalign.align.aligner import adam_step
from selfalign.model.weights import FastWeights
from selfalign.pretrain.config import Stage1Config

# What visits are planned with, beside the generator; and the tensors of a W.
_PLAN = ("age", "lifetime", "seeds", "group_seeds", "canonical")
_TENSORS = ("W1", "b1")

E = TypeVar("E")
DrawnE_co = TypeVar("DrawnE_co", covariant=True)


class DrawEmbodiment(Protocol[DrawnE_co]):
    """Draws an embodiment from a seed; `canonical` is the share of canonical ones at this time."""

    def __call__(self, seed: int, group_seed: int, canonical: float) -> DrawnE_co:
        """The embodiment of two seeds, its group's and its own; equal arguments, equal result."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Visit(Generic[E]):
    """The slots [n] of one iteration in order, their embodiments, and their ages [n] with it.

    `ended` are the slots whose life is over with this visit. `after` is what `Pool.state` says of
    everything but the deltas once it has been applied.
    """

    slots: Tensor
    embodiments: list[E]
    ages: Tensor
    ended: Tensor
    after: dict[str, Tensor]


@final
class Pool(Generic[E]):
    """All slots. Everything random comes from the generator and the seeds that it draws.

    Visits are planned in order by one thread, and applied in the same order, by the same thread or
    by another.
    """

    def __init__(
        self,
        config: Stage1Config,
        w0: FastWeights,
        draw: DrawEmbodiment[E],
        rng: np.random.Generator,
    ) -> None:
        self.config = config
        self._draw = draw
        self._rng = rng
        self.delta = w0.map(lambda t: t.new_zeros(config.slots, *t.shape))
        self.first = self.delta.map(torch.zeros_like)
        self.second = self.delta.map(torch.zeros_like)
        self.age = torch.zeros(config.slots)
        self.lifetime = torch.ones(config.slots)
        self.seeds = torch.zeros(config.slots, dtype=torch.int64)
        self.group_seeds = torch.zeros(config.slots, dtype=torch.int64)
        self.canonical = torch.full((config.slots,), config.canonical_start, dtype=torch.float64)
        self.embodiments: list[E] = [
            self._renew(slot, config.canonical_start) for slot in range(config.slots)
        ]
        self._planned = self._plan_state()

    def choose(self) -> Tensor:
        """The slots of one iteration [n]."""
        picked = self._rng.choice(self.config.slots, self.config.slots_per_iteration, replace=False)
        return torch.from_numpy(np.sort(picked))

    def visit(self, slots: Tensor, canonical: float) -> Visit[E]:
        """Plan the next visit: age some slots, and draw anew those whose life ends with it.

        Deltas stay as they are until the visit is applied.
        """
        self.age[slots] += 1
        ages, over = self.age[slots], self.age[slots] >= self.lifetime[slots]
        embodiments = [self.embodiments[slot] for slot in slots.tolist()]
        for slot in slots[over].tolist():
            self.embodiments[slot] = self._renew(slot, canonical)
        return Visit(slots, embodiments, ages, slots[over], self._plan_state())

    def apply(self, visit: Visit[E], gradient: FastWeights) -> None:
        """One Adam step on the deltas of a visit's slots; then end the lives that are over."""
        slots = visit.slots
        moved = adam_step(
            self.delta.select(slots),
            gradient,
            self.first.select(slots),
            self.second.select(slots),
            visit.ages.to(gradient.W1.device),
            self.config.inner,
        )
        for whole, part in zip((self.delta, self.first, self.second), moved, strict=True):
            whole.W1[slots], whole.b1[slots] = part.W1, part.b1
            whole.W1[visit.ended], whole.b1[visit.ended] = 0, 0
        self._planned = visit.after

    def _renew(self, slot: int, canonical: float) -> E:
        few = self.config.embodiments
        self.seeds[slot] = int(self._rng.integers(few or 2**62))
        # Of few embodiments each has a group of its own, or there would be more by combination.
        self.group_seeds[slot] = self.seeds[slot] + 1 if few else self._group_seed()
        self.canonical[slot] = canonical
        self.lifetime[slot] = 1 + float(self._rng.exponential(self.config.lifetime))
        self.age[slot] = 0
        return self._draw(int(self.seeds[slot]), int(self.group_seeds[slot]), canonical)

    def _group_seed(self) -> int:
        """Mostly the group of another slot.

        Were every camera in the pool but once, the picture would tell the action space, and the
        trunk would learn the pool by heart instead of reading W.
        """
        if self._rng.random() < self.config.shared_groups:
            other = int(self.group_seeds[self._rng.integers(self.config.slots)])
            if other:
                return other
        return int(self._rng.integers(1, 2**62))

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `restore` rebuilds the pool as the last applied visit left it."""
        return self._deltas() | self._planned

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state; embodiments are drawn again from their seeds."""
        for name, tensor in self._deltas().items():
            tensor.copy_(state[name])
        for name in _PLAN:
            getattr(self, name).copy_(state[name])
        # States of before the generator was part of them draw on with fresh numbers.
        if "rng" in state:
            _unpack(state["rng"], self._rng)
        self.embodiments = [
            self._draw(int(seed), int(group), float(share))
            for seed, group, share in zip(self.seeds, self.group_seeds, self.canonical, strict=True)
        ]
        self._planned = self._plan_state()

    def _deltas(self) -> dict[str, Tensor]:
        parts = {"delta": self.delta, "first": self.first, "second": self.second}
        return {f"{name}.{key}": getattr(w, key) for name, w in parts.items() for key in _TENSORS}

    def _plan_state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).clone() for name in _PLAN} | {"rng": _pack(self._rng)}


def _pack(rng: np.random.Generator) -> Tensor:
    """The state of a generator as bytes [n]; its numbers are too long for any tensor."""
    text = json.dumps(rng.bit_generator.state)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _unpack(state: Tensor, rng: np.random.Generator) -> None:
    rng.bit_generator.state = json.loads(state.numpy().tobytes())
