"""Play as a robot records it: through its own actions, at its own rate, without knowing a task."""

import numpy as np

from selfalign.data.normalisation import target_steps
from selfalign.data.play_store import EpisodeSlice
from selfalign.data.spec import RobotSpec
from selfalign.sim.env import SimEnv
from selfalign.sim.play import RandomPlay


def record_play(env: SimEnv, *, seconds: float, seed: int) -> EpisodeSlice:
    """Move about at random and keep what was seen and executed, as a play episode would hold it."""
    steps = play_steps(env, seconds)
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    motion = RandomPlay(rng)
    images, states, actions = [], [], []
    for _ in range(steps):
        action = env.action_space.encode(motion.command(env)).astype(np.float32)
        images.append(observation.images)
        states.append(observation.state)
        actions.append(action)
        observation = env.step(action)[0]
    return EpisodeSlice(
        images={name: np.stack([each[name] for each in images]) for name in images[0]},
        state=np.stack(states),
        action=np.stack(actions),
        t_ns=np.arange(steps, dtype=np.int64) * env.spec.period_ns,
        instructions=(env.instruction,) * steps,
    )


def play_steps(env: SimEnv, seconds: float) -> int:
    """Control steps of so much play."""
    return round(seconds * env.rate_hz)


def beginning(play: EpisodeSlice, steps: int) -> EpisodeSlice:
    """The first steps of a recorded episode."""
    return EpisodeSlice(
        images={name: images[:steps] for name, images in play.images.items()},
        state=play.state[:steps],
        action=play.action[:steps],
        t_ns=play.t_ns[:steps],
        instructions=play.instructions[:steps],
    )


def with_shuffled_actions(play: EpisodeSlice, spec: RobotSpec, seed: int) -> EpisodeSlice:
    """The same play, but each observation stands beside an action of another moment.

    Of targets the changes are shuffled, since these are what alignment sees.
    """
    order = np.random.default_rng(seed).permutation(len(play))
    action, columns = play.action[order], list(target_steps(spec))
    changes = np.diff(play.action[:, columns], axis=0, prepend=play.action[:1, columns])
    action[:, columns] = play.action[0, columns] + np.cumsum(changes[order], axis=0)
    return EpisodeSlice(play.images, play.state, action, play.t_ns, play.instructions)
