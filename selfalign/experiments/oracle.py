"""W fitted with expert labels on the robot itself: what any W could reach, as an upper mark.

Shape key: n chunks, H horizon, A action numbers of the model.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfalign.align.robot_io import RobotIO
from selfalign.data.observation import Observation
from selfalign.errors import SelfAlignError
from selfalign.experiments.settings import OracleConfig
from selfalign.model.flow import sample_time
from selfalign.model.prefix import Prefix
from selfalign.model.weights import FastWeights
from selfalign.sim.action_spaces import held
from selfalign.sim.env import SimEnv
from selfalign.sim.recording import commands_of, record_episode

_ENCODED_AT_ONCE = 64
_ATTEMPTS_PER_DEMONSTRATION = 3


@final
class NoDemonstrations(SelfAlignError):
    """The scripted expert does not solve the task on this robot."""


@final
@dataclass(frozen=True, eq=False)
class Chunks:
    """What the expert saw and wanted: state [n, s], actions [n, H, A], mask bool [A]."""

    prefix: Prefix
    state: Tensor
    actions: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.prefix)


def demonstrate(env: SimEnv, io: RobotIO, config: OracleConfig, *, count: int, seed: int) -> Chunks:
    """Record `count` successful episodes of the scripted expert, labelled in the robot's actions.

    Raises:
        NoDemonstrations: it fails too often.
    """
    rng = np.random.default_rng(seed)
    observations: list[Observation] = []
    labels: list[NDArray[np.float32]] = []
    found = attempts = 0
    while found < count:
        if attempts >= count * _ATTEMPTS_PER_DEMONSTRATION:
            raise NoDemonstrations(
                f"the expert solves {env.task.name!r} in {found} of {attempts} episodes on "
                f"{env.arm.name}, but {count} demonstrations are asked for"
            )
        noise = config.noise if attempts % 2 else 0.0
        attempts += 1
        rows, meta = record_episode(env, "demo", rng, noise=noise)
        if meta["success"]:
            found += 1
            seen, wanted = _chunks(env, io, rows)
            observations += seen
            labels.append(wanted)
    return _encoded(io, observations, np.concatenate(labels))


def fit_with_labels(io: RobotIO, chunks: Chunks, config: OracleConfig, *, seed: int) -> FastWeights:
    """Adam on W alone, from the base W, over the flow-matching loss of the expert's chunks."""
    policy, generator = io.policy, torch.Generator().manual_seed(seed)
    w = policy.base_w().map(lambda tensor: tensor.requires_grad_())
    optimiser = torch.optim.Adam([w.W1, w.b1], lr=config.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for _ in range(config.steps):
        rows = torch.randint(len(chunks), (config.batch_size,), generator=generator)
        actions = chunks.actions[rows]
        errors = policy.action_loss(
            chunks.prefix.index(rows),
            chunks.state[rows],
            actions,
            w,
            noise=torch.randn(actions.shape, generator=generator),
            time_B=sample_time(len(rows), generator, actions.device),
        )
        optimiser.zero_grad()
        errors[..., chunks.mask].mean().backward()
        optimiser.step()
        schedule.step()
    return w.detach()


def _chunks(
    env: SimEnv, io: RobotIO, rows: dict[str, np.ndarray]
) -> tuple[list[Observation], NDArray[np.float32]]:
    """Observations followed by H commands of the episode, and these as labels [n, H, A]."""
    joints, horizon = env.arm.joint_count, io.policy.config.horizon
    camera = next(iter(env.cameras))
    commands = commands_of(rows, joints)
    raw = env.action_space.encode(commands).astype(np.float32)
    starts = np.arange(max(0, len(raw) - horizon + 1))
    states = np.column_stack([rows["joints"][:, :joints], rows["gripper"]]).astype(np.float32)
    seen = [Observation({camera: rows["images"][i]}, states[i], env.instruction) for i in starts]
    steps = starts[:, None] + np.arange(horizon)
    if not io.spec.targets:
        return seen, io.numbers.actions(raw[steps], states[starts])
    # What the expert wants from where the arm is, step by step: a disturbance is no wish.
    still = env.action_space.encode(held(commands.measured))
    return seen, io.numbers.actions(raw[:, None], states, still)[:, 0][steps]


@torch.no_grad()
def _encoded(io: RobotIO, observations: list[Observation], labels: NDArray[np.float32]) -> Chunks:
    prefixes, states = [], []
    for start in range(0, len(observations), _ENCODED_AT_ONCE):
        inputs = io.encode(observations[start : start + _ENCODED_AT_ONCE])
        prefixes.append(io.prefix(inputs))
        states.append(inputs.state)
    mask = torch.tensor(io.action_normaliser.mask)
    return Chunks(Prefix.cat(prefixes), torch.cat(states), torch.from_numpy(labels), mask)
