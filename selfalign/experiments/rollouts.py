"""Many closed-loop episodes of one robot at once: one forward pass for all that are under way.

Noise is seeded by start state and call: two episodes from one start differ in W alone.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from selfalign.align.robot_io import RobotIO
from selfalign.data.observation import Observation
from selfalign.experiments.analytic import Disguise
from selfalign.experiments.online import OnlineW
from selfalign.experiments.stage import Stage
from selfalign.model.weights import FastWeights
from selfalign.sim.action_spaces import held
from selfalign.sim.env import SimEnv
from selfalign.sim.motion import Command

# Distinguishes the noise of two calls of one episode; an episode has fewer calls.
_CALLS: Final = 1000


@final
@dataclass(frozen=True, eq=False)
class Episode:
    """One episode to run: which W from which start state; `online` goes on from that W."""

    label: str
    w: FastWeights
    start: int
    online: OnlineW | None = None

    @property
    def current_w(self) -> FastWeights:
        """The W that makes the next chunk."""
        return self.w if self.online is None else self.online.w


@final
@dataclass(eq=False)
class _Running:
    """An episode under way in its environment."""

    number: int
    episode: Episode
    env: SimEnv
    observation: Observation
    disguise: Disguise | None = None
    calls: int = 0
    is_success: bool = False
    is_over: bool = False
    low: NDArray[np.float64] = field(init=False)
    high: NDArray[np.float64] = field(init=False)
    step: NDArray[np.float64] = field(init=False)
    last: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        space = self.disguise.space if self.disguise else self.env.action_space
        limits = space.dims(self.env.arm)
        self.low = np.array([limit.low for limit in limits])
        self.high = np.array([limit.high for limit in limits])
        self.step = np.array([np.inf if limit.step is None else limit.step for limit in limits])
        self.last = space.encode(held(self.env.measure()))

    def apply(self, chunk: NDArray[np.float32]) -> None:
        """Execute actions within the robot's limits until they or the episode end."""
        if not np.isfinite(chunk).all():
            self.is_over = True
            return
        online = self.episode.online
        for wanted in np.clip(chunk, self.low, self.high):
            action = np.clip(wanted, self.last - self.step, self.last + self.step)
            if online is not None:
                online.add(self.env.observe(), action)
            self.last = action
            self.is_success = self.env.execute(self._command(action))
            self.is_over = self.is_success or self.env.steps >= self.env.task.step_limit
            if self.is_over:
                return
        self.observation = self.env.observe()
        if online is not None:
            online.learn(self.observation)

    def _command(self, action: NDArray[np.float64]) -> Command:
        if self.disguise is not None:
            return self.disguise.command(action, self.env)
        return self.env.action_space.decode(action, self.env.measure(), self.env.kinematics)

    @property
    def seen(self) -> Observation:
        """What the policy is shown."""
        return self.disguise.see(self.observation) if self.disguise else self.observation


def episodes(weights: Iterable[tuple[str, FastWeights]], starts: Sequence[int]) -> list[Episode]:
    """Every W from every start state."""
    return [Episode(label, w, start) for label, w in weights for start in starts]


def roll_out(
    io: RobotIO,
    stage: Stage,
    wanted: Sequence[Episode],
    *,
    execute: int | None = None,
    disguise: Disguise | None = None,
) -> dict[str, list[bool]]:
    """Run episodes and return the successes of each label, in the order they were given.

    Args:
        io: The robot that the stage is set up for.
        stage: Where it acts.
        wanted: What to run.
        execute: Actions of a chunk to execute before the next is asked for; all if None.
        disguise: How the robot passes for another one, whose way into the policy `io` is.
    """
    success = [False] * len(wanted)
    waiting = deque(enumerate(wanted))
    free = deque(range(stage.size))
    running: dict[int, _Running] = {}
    while waiting or running:
        while waiting and free:
            place = free.popleft()
            running[place] = _begin(stage.env(place), disguise, *waiting.popleft())
        now = list(running.items())
        for (place, one), chunk in zip(now, _chunks(io, [one for _, one in now]), strict=True):
            one.apply(chunk[:execute])
            if one.is_over:
                success[one.number] = one.is_success
                del running[place]
                free.append(place)
    found: dict[str, list[bool]] = {}
    for episode, is_success in zip(wanted, success, strict=True):
        found.setdefault(episode.label, []).append(is_success)
    return found


def _begin(env: SimEnv, disguise: Disguise | None, number: int, episode: Episode) -> _Running:
    observation, _ = env.reset(seed=episode.start)
    return _Running(number, episode, env, observation, disguise)


@torch.inference_mode()
def _chunks(io: RobotIO, running: Sequence[_Running]) -> NDArray[np.float32]:
    """The next chunk [B, H, a] of each episode under way, in the robot's units."""
    config = io.policy.config
    inputs = io.encode([one.seen for one in running])
    noise = torch.stack([_noise(one, config.horizon, config.action_dim) for one in running])
    w = FastWeights.stack([one.episode.current_w for one in running])
    chunk = io.policy.act(io.prefix(inputs), inputs.state, w, noise=noise)
    for one in running:
        one.calls += 1
    raw_state = np.stack([one.observation.state for one in running])
    last = io.numbers.last_commands(raw_state, [one.last for one in running])
    return io.numbers.raw_actions(chunk.float().numpy(), raw_state, last)


def _noise(one: _Running, horizon: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(one.episode.start * _CALLS + one.calls)
    return torch.randn(horizon, width, generator=generator)
