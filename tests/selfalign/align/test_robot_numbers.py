"""A policy with statistics: the robot's numbers go in and come out by them."""

import numpy as np
import pytest
import torch

from selfalign.align.robot_io import RobotIO
from selfalign.data.continuation import Continuation
from selfalign.data.observation import Observation
from selfalign.data.play_store import EpisodeSlice
from selfalign.data.spec import Camera, Dimension, RobotSpec
from selfalign.errors import SpecError
from selfalign.model.policy import Policy
from selfalign.model.processing import Processing, Statistics
from tests.fakes.models import random_policy, random_w

MEAN, STD = (10.0, -4.0, 100.0), (2.0, 0.5, 20.0)
STATISTICS = Statistics(method="z_score", mean=MEAN, std=STD)


def spec_of(states: int = 3, actions: int = 3) -> RobotSpec:
    def dimensions(name: str, count: int) -> tuple[Dimension, ...]:
        return tuple(
            Dimension(name=f"{name}{i}", unit="rad", low=-500, high=500) for i in range(count)
        )

    return RobotSpec(
        name="toy",
        rate_hz=10,
        cameras=(Camera(name="front", height=24, width=40),),
        state=dimensions("s", states),
        action=dimensions("a", actions),
        default_instruction="lift",
    )


def policy_with(flavour: str = "pi0", **fields: object) -> Policy:
    policy = random_policy(flavour)
    given = {"source": "openpi", "state": STATISTICS, "action": STATISTICS} | fields
    policy.processing = Processing.model_validate(given)
    return policy


def observation(*state: float) -> Observation:
    image = np.arange(24 * 40 * 3, dtype=np.uint8).reshape(24, 40, 3)
    return Observation({"front": image}, np.array(state, np.float32))


def test_statistics_take_the_place_of_declared_limits() -> None:
    io = RobotIO(policy_with(), spec_of())
    state = io.encode([observation(12.0, -4.5, 100.0)]).state
    np.testing.assert_allclose(state[0, :3], [1.0, -1.0, 0.0], atol=1e-5)
    assert not state[0, 3:].any()


def test_absolute_commands_are_the_deltas_plus_the_state_at_the_start_of_the_chunk() -> None:
    """Moving the mean of the state with the state leaves the network's input, and so the delta."""
    mask = (True, False, True)
    now, later = (11.0, -4.0, 90.0), (14.0, -4.0, 90.0)
    moved = STATISTICS.model_copy(update={"mean": (13.0, *MEAN[1:])})
    chunks = [
        RobotIO(policy_with(delta_actions=mask, state=stats), spec_of()).act(
            [observation(*state)], random_w(random_policy()), seed=1
        )
        for state, stats in ((now, STATISTICS), (later, moved))
    ]
    np.testing.assert_allclose(
        chunks[1] - chunks[0], np.array([3.0, 0, 0]) + 0 * chunks[0], atol=1e-3
    )
    plain = RobotIO(policy_with(), spec_of()).act(
        [observation(*now)], random_w(random_policy()), seed=1
    )
    expected = np.array([11.0, 0.0, 90.0]) + 0 * plain
    np.testing.assert_allclose(chunks[0] - plain, expected, rtol=1e-5, atol=1e-4)


def test_a_continued_chunk_is_made_relative_to_the_state_of_now() -> None:
    io = RobotIO(policy_with(delta_actions=(True, True, True)), spec_of())
    w, seen = random_w(random_policy()), observation(11.0, -4.0, 90.0)
    first = io.act([seen], w, seed=1)[0]
    rest = Continuation(first[1:], delay=2, until=2)
    moved = observation(11.5, -4.0, 91.0)
    joined = io.act([moved], w, seed=2, continuations=[rest])[0]
    free = io.act([moved], w, seed=2)[0]
    apart, before = (np.abs(chunk[:2] - first[1:3]) / STD for chunk in (joined, free))
    assert apart.mean() < 0.5 * before.mean()


def test_actions_of_a_transition_are_relative_to_its_first_state() -> None:
    io = RobotIO(policy_with(delta_actions=(True, False)), spec_of())
    rng = np.random.default_rng(0)
    episode = EpisodeSlice(
        images={"front": rng.integers(0, 256, (5, 24, 40, 3), np.uint8)},
        state=rng.normal(size=(5, 3)).astype(np.float32),
        action=rng.normal(size=(5, 3)).astype(np.float32),
        t_ns=np.arange(5) * 100_000_000,
        instructions=("",) * 5,
    )
    batch = io.transitions(episode, np.array([1, 2]))
    for row, start in enumerate((1, 2)):
        actions = episode.action[start : start + 2] - episode.state[start] * [1, 0, 0]
        expected = (actions - MEAN) / STD
        np.testing.assert_allclose(batch.actions[row, :, :3], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("flavour", "told", "has_state"),
    [("pi05", None, True), ("pi05", False, False), ("pi0", None, False), ("pi0", True, True)],
)
def test_the_prompt_has_the_state_as_the_checkpoint_says(
    flavour: str, told: bool | None, has_state: bool
) -> None:
    """pi05_libero was trained without a state in its prompt, unlike other pi0.5."""
    policy = policy_with(flavour, state_in_prompt=told)
    policy.prompts.max_tokens = 48
    tokens = RobotIO(policy, spec_of()).encode([observation(12.0, -4.5, 100.0)]).tokens[0]
    words = [policy.prompts.tokenizer.id_to_token(i) for i in tokens.tolist()]
    assert ("state" in words) is has_state
    assert (words[-1] == "\n") is not has_state
    if has_state:
        assert words[words.index("state") + 2 :][:3] == ["255", "0", "128"]


def test_images_are_resized_as_the_checkpoint_says() -> None:
    pil, torch_ = (
        RobotIO(policy_with(image_resize=resize), spec_of()).encode([observation(10, -4, 100)])
        for resize in ("pil", "torch")
    )
    assert pil.images.shape == torch_.images.shape
    assert not torch.equal(pil.images, torch_.images)


@pytest.mark.parametrize(
    ("fields", "spec", "message"),
    [
        ({}, spec_of(states=4), "'toy', state: the robot has 4 numbers, the model's statistics 3"),
        ({}, spec_of(actions=4), "'toy', action: the robot has 4 numbers"),
        ({"delta_actions": (False, False, True)}, spec_of(states=2), "marks action 2"),
        ({"delta_actions": (True, True, True)}, spec_of(actions=2), "has 2 actions and 3 state"),
    ],
)
def test_statistics_that_do_not_fit_the_robot_are_refused(
    fields: dict[str, object], spec: RobotSpec, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        RobotIO(policy_with(**fields), spec)


def test_statistics_of_padding_are_not_read() -> None:
    """Released statistics have 32 numbers; openpi reads as many as the robot has."""
    padded = Statistics(method="z_score", mean=(*MEAN, 0.0, 0.0), std=(*STD, 0.0, 0.0))
    io = RobotIO(policy_with(state=padded), spec_of())
    state = io.encode([observation(12.0, -4.5, 100.0)]).state
    np.testing.assert_allclose(state[0, :5], [1.0, -1.0, 0.0, 0.0, 0.0], atol=1e-5)
