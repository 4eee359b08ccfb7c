"""One robot's way into the policy and back: units, limits, transitions."""

import numpy as np
import pytest
import torch

from selfalign.align.robot_io import RobotIO
from selfalign.data.continuation import Continuation
from selfalign.data.observation import Observation, ObservationMismatch
from selfalign.data.play_store import EpisodeSlice
from selfalign.data.spec import Camera, Dimension, RobotSpec
from selfalign.data.transitions import transition_starts
from selfalign.errors import SpecError
from selfalign.model.policy import Policy
from selfalign.model.prefix import Prefix
from tests.fakes.models import random_policy, random_w

PERIOD_NS = 100_000_000


def make_spec(*, cameras: int = 2, states: int = 3, actions: int = 2) -> RobotSpec:
    return RobotSpec(
        name="toy",
        rate_hz=10,
        cameras=tuple(Camera(name=f"c{i}", height=24, width=32) for i in range(cameras)),
        state=tuple(Dimension(name=f"s{i}", unit="rad", low=-2, high=6) for i in range(states)),
        action=tuple(Dimension(name=f"a{i}", unit="m", low=-1, high=3) for i in range(actions)),
        default_instruction="lift the red cube",
    )


def make_episode(length: int, seed: int = 0) -> EpisodeSlice:
    rng = np.random.default_rng(seed)
    return EpisodeSlice(
        images={f"c{i}": rng.integers(0, 256, (length, 24, 32, 3), np.uint8) for i in range(2)},
        state=rng.uniform(-2, 6, (length, 3)).astype(np.float32),
        action=rng.uniform(-1, 3, (length, 2)).astype(np.float32),
        t_ns=np.arange(length) * PERIOD_NS,
        instructions=("play",) * length,
    )


def observation_of(episode: EpisodeSlice, row: int, instruction: str = "") -> Observation:
    images = {name: frames[row] for name, frames in episode.images.items()}
    return Observation(images, episode.state[row], instruction)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (make_spec(cameras=4), "has 4 cameras; model 'dummy' takes 3"),
        (make_spec(states=33), "has 33 state numbers; model 'dummy' takes 32"),
        (make_spec(actions=33), "has 33 action numbers; model 'dummy' takes 32"),
    ],
)
def test_robot_with_more_than_the_model_takes_is_refused(spec: RobotSpec, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        RobotIO(random_policy(), spec)


def test_encoding_normalises_by_declared_limits_and_pads() -> None:
    io, episode = RobotIO(random_policy(), make_spec()), make_episode(2)
    inputs = io.encode([observation_of(episode, 0), observation_of(episode, 1)])
    assert inputs.images.shape == (2, 2, 3, 32, 32)
    assert float(inputs.images.min()) >= -1
    assert float(inputs.images.max()) <= 1
    assert inputs.image_mask.all()
    expected = (episode.state - 2.0) / 4.0
    np.testing.assert_allclose(inputs.state[:, :3].numpy(), expected, atol=1e-6)
    assert not inputs.state[:, 3:].any()


def test_default_instruction_stands_in_for_an_empty_one() -> None:
    policy = random_policy()
    io, episode = RobotIO(policy, make_spec()), make_episode(1)
    empty = io.encode([observation_of(episode, 0)])
    spoken = io.encode([observation_of(episode, 0, "lift the red cube")])
    assert torch.equal(empty.tokens, spoken.tokens)
    assert empty.token_mask.sum() > 2


def test_act_returns_the_chunk_in_the_units_of_the_robot() -> None:
    policy = random_policy()
    io, episode, w = RobotIO(policy, make_spec()), make_episode(3), random_w(policy)
    observations = [observation_of(episode, row) for row in range(3)]

    chunk = io.act(observations, w, seed=5)

    inputs = io.encode(observations)
    generator = torch.Generator().manual_seed(5)
    normalised = policy.act(io.prefix(inputs), inputs.state, w, generator=generator).numpy()
    assert chunk.shape == (3, policy.config.horizon, 2)
    assert chunk.dtype == np.float32
    np.testing.assert_allclose(chunk, 1.0 + 2.0 * normalised[..., :2], rtol=1e-5, atol=1e-5)
    # Not clamped: with random weights some command is beyond its limits.
    assert chunk.min() < -1
    np.testing.assert_allclose(
        io.action_normaliser.normalise(chunk)[..., :2], normalised[..., :2], rtol=1e-4, atol=1e-5
    )


def test_act_follows_its_seed() -> None:
    policy = random_policy()
    io, w = RobotIO(policy, make_spec()), random_w(policy)
    one = [observation_of(make_episode(1), 0)]
    assert np.array_equal(io.act(one, w, seed=1), io.act(one, w, seed=1))
    assert not np.array_equal(io.act(one, w, seed=1), io.act(one, w, seed=2))
    assert not np.array_equal(io.act(one, w), io.act(one, w))


def test_observations_of_a_batch_do_not_influence_one_another() -> None:
    policy = random_policy()
    io, episode, w = RobotIO(policy, make_spec()), make_episode(3), random_w(policy)
    first, second, third = (
        observation_of(episode, i, text) for i, text in enumerate(("lift", "push it", "touch it"))
    )
    one, other = io.act([first, second], w, seed=0), io.act([first, third], w, seed=0)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-4, atol=1e-4)


def test_instruction_too_long_for_the_model_is_an_error_of_the_observation() -> None:
    io = RobotIO(random_policy(), make_spec())
    spoken = observation_of(make_episode(1), 0, "touch the red cube " * 5)
    with pytest.raises(ObservationMismatch, match="expected at most 12; use fewer") as caught:
        io.encode([spoken])
    assert caught.value.field == "instruction"


def test_pi05_prompt_carries_the_state_of_the_robot_in_256_bins() -> None:
    policy = random_policy("pi05")
    io, episode = RobotIO(policy, make_spec()), make_episode(1)
    tokens = io.encode([observation_of(episode, 0, "lift")]).tokens
    bins = [int((s - 2.0) / 4.0 * 128 + 128) for s in episode.state[0]]
    words = [policy.prompts.tokenizer.id_to_token(i) for i in tokens[0].tolist()]
    at = words.index("state") + 2
    assert words[at : at + 4] == [*map(str, bins), ";"]


def test_transitions_take_the_rows_that_they_name() -> None:
    policy = random_policy()
    io, episode = RobotIO(policy, make_spec()), make_episode(9)
    starts = np.array([4, 0, 6])

    batch = io.transitions(episode, starts)

    assert len(batch) == 3
    assert batch.actions.shape == (3, 2, 32)
    for row, start in enumerate(starts):
        state = (episode.state[start] - 2.0) / 4.0
        np.testing.assert_allclose(batch.state[row, :3].numpy(), state, atol=1e-6)
        actions = (episode.action[start : start + 2] - 1.0) / 2.0
        np.testing.assert_allclose(batch.actions[row, :, :2].numpy(), actions, atol=1e-6)
        for seen, frame in ((batch.now, start), (batch.following, start + 2)):
            alone = io.frame_prefixes({n: x[[frame]] for n, x in episode.images.items()})
            torch.testing.assert_close(seen.features[row], alone.features[0], rtol=1e-4, atol=1e-5)
            if frame == start:
                torch.testing.assert_close(
                    batch.now.key_values[row], alone.key_values[0], rtol=1e-4, atol=1e-5
                )
    assert batch.state_mask.sum(-1).tolist() == [3, 3, 3]
    assert batch.action_mask.sum(-1).tolist() == [2, 2, 2]


def test_transitions_do_not_see_the_instruction() -> None:
    policy = random_policy()
    io, episode = RobotIO(policy, make_spec()), make_episode(4)
    batch = io.transitions(episode, np.array([0, 1]))
    words = batch.now.mask[:, batch.now.image_tokens :]
    assert words.sum(-1).tolist() == [2, 2]  # bos and newline


def test_each_frame_is_encoded_once() -> None:
    policy = random_policy()
    io, episode = RobotIO(policy, make_spec()), make_episode(9)
    images, encode = [], policy.prefix

    def counted(frames: torch.Tensor, *rest: torch.Tensor) -> Prefix:
        images.append(len(frames.flatten(0, 1)))
        return encode(frames, *rest)

    policy.prefix = counted  # type: ignore[method-assign]
    batch = io.transitions(episode, np.arange(7))
    assert sum(images) == 9 * len(io.spec.cameras)
    assert torch.equal(batch.now.features[2], batch.following.features[0])


def test_many_frames_are_encoded_in_parts_with_equal_results() -> None:
    policy = random_policy()
    io, episode = RobotIO(policy, make_spec()), make_episode(70)
    every = io.frame_prefixes(dict(episode.images))
    assert len(every) == 70
    last = io.frame_prefixes({n: x[-1:] for n, x in episode.images.items()})
    torch.testing.assert_close(every.key_values[-1], last.key_values[0], rtol=1e-4, atol=1e-5)


def test_a_large_model_encodes_fewer_frames_at_once() -> None:
    policy = random_policy()
    io, episode = RobotIO(policy, make_spec()), make_episode(4)
    batches, encode = [], policy.prefix

    def counted(frames: torch.Tensor, *rest: torch.Tensor) -> Prefix:
        batches.append(len(frames))
        return encode(frames, *rest)

    policy.prefix = counted  # type: ignore[method-assign]
    io.frame_prefixes(dict(episode.images))
    # Only its sizes are read there: 16 million numbers in the MLP for one image token.
    wide = policy.config.language.model_copy(update={"mlp_dim": 1 << 24})
    policy.config = policy.config.model_copy(update={"language": wide})
    io.frame_prefixes(dict(episode.images))
    assert batches == [4, 1, 1, 1, 1]


def test_no_transition_crosses_a_gap_in_time() -> None:
    policy = random_policy()
    io, episode = RobotIO(policy, make_spec()), make_episode(10)
    t_ns = episode.t_ns + np.where(np.arange(10) >= 5, 20 * PERIOD_NS, 0)
    starts = transition_starts(t_ns, 10, stride=2, period_ns=PERIOD_NS)
    batch = io.transitions(episode, starts)
    assert starts.tolist() == [0, 1, 2, 5, 6, 7]
    assert len(batch) == 6


def test_rows_beyond_the_episode_are_refused() -> None:
    io = RobotIO(random_policy(), make_spec())
    with pytest.raises(IndexError):
        io.transitions(make_episode(4), np.array([2]))


def test_alignment_input_carries_no_gradient_and_may_be_trained_on() -> None:
    policy = random_policy()
    batch = RobotIO(policy, make_spec()).transitions(make_episode(4), np.array([0, 1]))
    assert not batch.now.key_values.requires_grad
    assert not batch.now.key_values.is_inference()


def test_policy_is_left_as_it_was() -> None:
    policy: Policy = random_policy()
    base, io = policy.base_sha256, RobotIO(policy, make_spec())
    io.act([observation_of(make_episode(1), 0)], random_w(policy), seed=0)
    assert policy.freeze().base_sha256 == base


def test_continuing_takes_over_the_frozen_rows_in_the_robots_units() -> None:
    io, episode = RobotIO(random_policy(), make_spec()), make_episode(2)
    w, seen = random_w(io.policy), observation_of(episode, 0)
    old = np.array([[0.5, -0.5], [2.5, 1.0], [2.0, 0.0]], np.float32)
    plain = io.act([seen], w, seed=3)[0]
    new = io.act([seen], w, seed=3, continuations=[Continuation(old, delay=2, until=3)])[0]
    np.testing.assert_allclose(new[:2], old[:2], atol=1e-5)
    assert not np.allclose(new[2:], plain[2:], atol=1e-3)


@pytest.mark.parametrize("trained_delay", [0, 2])
def test_a_batch_may_mix_chunks_that_continue_and_chunks_that_do_not(trained_delay: int) -> None:
    io, episode = RobotIO(random_policy(trained_delay=trained_delay), make_spec()), make_episode(3)
    w, seen = random_w(io.policy), [observation_of(episode, row) for row in range(3)]
    old = np.array([[0.5, -0.5], [2.5, 1.0]], np.float32)
    plain = io.act(seen, w, seed=3)
    new = io.act(seen, w, seed=3, continuations=[None, Continuation(old, 1, 2), None])
    np.testing.assert_allclose(new[[0, 2]], plain[[0, 2]], atol=1e-4)
    np.testing.assert_allclose(new[1, 0], old[0], atol=1e-5)
    unchanged = io.act(seen, w, seed=3, continuations=[None] * 3)
    np.testing.assert_array_equal(unchanged, plain)


def test_one_continuation_belongs_to_each_observation() -> None:
    io, episode = RobotIO(random_policy(), make_spec()), make_episode(1)
    old = Continuation(np.zeros((2, 2), np.float32), 1, 2)
    with pytest.raises(ValueError, match="2 continuations for 1 observations"):
        io.act([observation_of(episode, 0)], random_w(io.policy), continuations=[old, old])
