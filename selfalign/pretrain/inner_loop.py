"""The persistent inner loop: trunk, optimisers and pool, and one iteration of it.

An iteration's slots are shared by the processes of a run, and a process's slots cut into
micro-batches. Neither changes the result: draws belong to slots, and losses, gradients and the
pool's steps are those of the whole iteration, rounding apart.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor, nn

from selfalign.align.losses import AlignmentLosses
from selfalign.model.checkpoint import save_policy
from selfalign.model.policy import Policy
from selfalign.model.ttt import TTTLayer, identity_gate
from selfalign.model.weights import FastWeights
from selfalign.pretrain.config import Stage1Config
from selfalign.pretrain.loader import Part, ReadAhead, parts
from selfalign.pretrain.optimisers import trunk_optimisers
from selfalign.pretrain.pool import Pool, Visit
from selfalign.pretrain.processes import Processes
from selfalign.pretrain.progress import load_state, save_state
from selfalign.pretrain.running_mean import RunningMean
from selfalign.pretrain.schedule import one_cycle
from selfalign.pretrain.stage1 import Whole, compiled, outer_and_inner
from selfalign.pretrain.stage1_data import TrainingData

FROZEN = ("vision.", "embed_tokens.", "language.")


class ExtraLoss(Protocol):
    """A further loss of the trunk, over all slots of an iteration."""

    def backward(
        self, embodiments: list[Any], delta: FastWeights, iteration: int
    ) -> dict[str, float]:
        """Add its gradient to that of the trunk, none to delta. Returns metrics.

        Called in the first process alone, outside of compiled code.
        """


@final
class InnerLoop:
    """Trunk, optimisers and pool of one process. Iterations are taken one after another."""

    def __init__(
        self,
        config: Stage1Config,
        seed: int,
        policy: Policy,
        data: TrainingData[Any],
        *,
        processes: Processes | None = None,
        extra: ExtraLoss | None = None,
    ) -> None:
        self.config, self.policy, self.processes = config, policy, processes or Processes()
        policy.use_eager_attention(policy.device.type == "cpu")
        policy.set_gradient_checkpointing(config.gradient_checkpointing)
        if config.gate_closed:
            close_gates(policy)
        self.trunk = trunk_of(policy, gates=not config.gate_closed)
        self.optimisers = trunk_optimisers(self.trunk, config)
        self._mean = RunningMean(self.trunk, config.average) if config.average else None
        self.pool = Pool[Any](
            config,
            policy.base_w(),
            lambda seed, group_seed, canonical: data.draw(seed, group_seed, canonical, config),
            np.random.default_rng((seed, 2)),
        )
        self._data, self._seed, self._extra = data, seed, extra
        self._losses = AlignmentLosses(config.inner)
        self._parts: Iterator[Part[Any]] | None = None
        self.processes.share(config.slots_per_iteration)

    def step(self, iteration: int) -> dict[str, float]:
        """One step of the trunk and of the deltas of some slots. Returns the losses."""
        config = self.config
        for optimiser in self.optimisers:
            one_cycle(optimiser, config.learning_rate, iteration / config.iterations, config.warmup)
            optimiser.zero_grad(set_to_none=True)
        visit, gradient, metrics = self._own_parts(iteration)
        extra: dict[str, float] = {}
        if self._extra is not None and self.processes.is_first:
            delta = self.pool.delta.select(visit.slots)
            extra = self._extra.backward(visit.embodiments, delta, iteration)
        metrics = self._sum(gradient, metrics)
        nn.utils.clip_grad_norm_(self.trunk.values(), config.gradient_clip)
        for optimiser in self.optimisers:
            optimiser.step()
        if self._mean is not None:
            self._mean.update(iteration)
        self.pool.apply(visit, gradient)
        return metrics | extra

    def _own_parts(self, iteration: int) -> tuple[Visit[Any], FastWeights, dict[str, float]]:
        """This process's share of gradients and losses; slots of others have gradient 0."""
        gradient: FastWeights | None = None
        metrics: dict[str, float] = {}
        for part in self._of_one_visit(iteration):
            visit = part.visit
            delta = self.pool.delta.select(visit.slots)
            gradient = gradient or delta.map(torch.zeros_like)
            rows = slice(part.rows.start, part.rows.stop)
            with compiled(self.policy, enabled=self.config.compile):
                losses = outer_and_inner(
                    self.policy,
                    self._losses,
                    part.batch.to(self.policy.device),
                    delta.select(torch.arange(rows.start, rows.stop)),
                    Whole.of(self.policy, self._data, visit.embodiments, self.config),
                    self.config,
                )
                losses.total.backward()
            gradient.W1[rows], gradient.b1[rows] = _tensors(losses.slot_gradient())
            for name, value in losses.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + value
        assert gradient is not None, "an iteration without slots"
        return visit, gradient, metrics

    def _of_one_visit(self, iteration: int) -> Iterator[Part[Any]]:
        if self._parts is None:
            source = parts(
                self.pool, self._data, self.processes, self.config, self._seed, iteration
            )
            ahead = self.config.read_ahead and not self._data.computes
            self._parts = ReadAhead(source) if ahead else source
        for part in self._parts:
            yield part
            if part.is_last:
                return

    def _sum(self, gradient: FastWeights, metrics: dict[str, float]) -> dict[str, float]:
        """Sum gradients of trunk and slots, in place, and losses over all processes."""
        values = torch.tensor(list(metrics.values()), device=self.policy.device)
        self.processes.sum([*self._trunk_gradients(), *_tensors(gradient), values])
        return dict(zip(metrics, values.tolist(), strict=True))

    def _trunk_gradients(self) -> list[Tensor]:
        """Those that any process has. An extra loss may give the first one more than others."""
        parameters = list(self.trunk.values())
        there = torch.tensor([float(p.grad is not None) for p in parameters])
        there = there.to(self.policy.device)
        self.processes.sum([there])
        for parameter, count in zip(parameters, there.tolist(), strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in parameters if p.grad is not None]

    def resume(self, run: Path) -> int:
        """Take over the state that a stopped run left; returns the iteration to go on with.

        The run may have had any number of processes.
        """
        assert self._parts is None, "resume() after step()"
        done, pool_state = load_state(run / "stage1_state", self.trunk, self.optimisers)
        if self._mean is not None:
            self._mean.restore(pool_state)
        if pool_state:
            self.pool.restore(pool_state)
        return done

    def save(self, run: Path, done: int) -> None:
        """Write `run/model`, then the state after `done` iterations."""
        with self.averaged():
            save_policy(self.policy, run / "model")
        extra = self.pool.state() | (self._mean.state() if self._mean is not None else {})
        save_state(run / "stage1_state", self.trunk, self.optimisers, done, extra)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The policy has the mean weights meanwhile, where a mean is kept."""
        if self._mean is None:
            yield
            return
        with self._mean.in_place():
            yield

    def close(self) -> None:
        """End the thread that reads ahead. An iteration after that fails."""
        if isinstance(self._parts, ReadAhead):
            self._parts.close()


def _tensors(w: FastWeights) -> tuple[Tensor, Tensor]:
    return w.W1, w.b1


def trunk_of(policy: Policy, *, gates: bool = True) -> nn.ParameterDict:
    """What stage 1b trains: all but vision and prefix. W0 is part of it, `gates` of TTT may be."""
    trained = {
        k.replace(".", "/"): p
        for k, p in policy.named_parameters()
        if not k.startswith(FROZEN) and (gates or not k.endswith(".ttt.gate"))
    }
    return nn.ParameterDict(trained)


def close_gates(policy: Policy) -> None:
    """Let a policy act as if it had no TTT layers, whatever W is."""
    for module in policy.modules():
        if isinstance(module, TTTLayer):
            identity_gate(module)
