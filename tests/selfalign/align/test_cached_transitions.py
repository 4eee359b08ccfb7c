"""Transitions out of the prefix cache are those that are encoded at once."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from selfalign.align.aligner import Aligner, AlignmentConfig
from selfalign.align.batch import TransitionBatch
from selfalign.align.cached_transitions import CachedTransitions
from selfalign.align.prefix_cache import PrefixCache
from selfalign.align.robot_io import RobotIO
from selfalign.data.play_step import EpisodeSlice
from selfalign.model.policy import Policy
from tests.fakes.models import random_policy, random_w
from tests.selfalign.align.test_robot_io import make_episode, make_spec

PLENTY = 1 << 30


@dataclass
class Episode:
    """An episode in memory that counts its reads."""

    id: str
    steps: EpisodeSlice
    reads: list[int] = field(default_factory=list)

    def read(self, start: int, stop: int) -> EpisodeSlice:
        self.reads.append(start)
        return EpisodeSlice(
            {name: frames[start:stop] for name, frames in self.steps.images.items()},
            self.steps.state[start:stop],
            self.steps.action[start:stop],
            self.steps.t_ns[start:stop],
            self.steps.instructions[start:stop],
        )


def cached(policy: Policy, cache: PrefixCache) -> CachedTransitions:
    episodes = [Episode("one", make_episode(9)), Episode("two", make_episode(6, seed=1))]
    starts = [np.array([0, 1, 2, 5]), np.array([0, 3])]
    return CachedTransitions.of(RobotIO(policy, make_spec()), cache, [*episodes], starts)


def at_once(policy: Policy) -> TransitionBatch:
    io = RobotIO(policy, make_spec())
    return TransitionBatch.cat(
        [
            io.transitions(make_episode(9), np.array([0, 1, 2, 5])),
            io.transitions(make_episode(6, seed=1), np.array([0, 3])),
        ]
    )


def assert_same(one: TransitionBatch, other: TransitionBatch) -> None:
    # The batch in which a frame is encoded moves the last bits.
    torch.testing.assert_close(one.now.key_values, other.now.key_values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.following.features, other.following.features)
    for name in ("state", "actions", "state_mask", "action_mask"):
        assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("memory", [0, PLENTY])
def test_loaded_transitions_are_those_encoded_at_once(tmp_path: Path, memory: int) -> None:
    policy = random_policy()
    cache = PrefixCache(tmp_path, memory_bytes=memory, disk_bytes=PLENTY)
    transitions = cached(policy, cache)
    assert len(transitions) == 6
    assert_same(transitions.load(), at_once(policy))
    # Frames 0 to 5 and 7 of one episode, 0, 2, 3, 5 of the other: each is asked for once.
    assert cache.counts.misses == 11
    assert_same(transitions.load(), at_once(policy))
    assert cache.counts.misses == 11
    assert cache.counts.memory_hits + cache.counts.disk_hits == 11


def test_index_reads_nothing_and_load_reads_the_chosen_rows() -> None:
    policy = random_policy()
    transitions = cached(policy, PrefixCache(None, memory_bytes=PLENTY))
    chosen = transitions.index(torch.tensor([5, 1])).index(torch.tensor([1, 0, 0]))
    assert [e.reads for e in transitions.episodes if isinstance(e, Episode)] == [[], []]
    assert_same(chosen.load(), at_once(policy).index(torch.tensor([1, 5, 5])))
    assert [e.reads for e in transitions.episodes if isinstance(e, Episode)] == [[1], [3, 3]]


def test_another_model_or_robot_shares_no_prefix() -> None:
    cache = PrefixCache(None, memory_bytes=PLENTY)
    cached(random_policy(), cache).load()
    misses = cache.counts.misses
    cached(random_policy(seed=1), cache).load()
    assert cache.counts.misses == 2 * misses


@pytest.mark.parametrize("micro_batch", [1, 2, None])
def test_aligning_on_cached_transitions_gives_the_same_w(micro_batch: int | None) -> None:
    policy = random_policy()
    aligner = Aligner(policy, AlignmentConfig(micro_batch=micro_batch))
    transitions = cached(policy, PrefixCache(None, memory_bytes=PLENTY))
    gradient, metrics = aligner.gradient(transitions, random_w(policy))
    expected, expected_metrics = Aligner(policy).gradient(at_once(policy), random_w(policy))
    torch.testing.assert_close(gradient.W1, expected.W1, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.b1, expected.b1, rtol=1e-4, atol=1e-5)
    assert metrics == pytest.approx(expected_metrics, rel=1e-4)
