"""Numbers, images and prompts are processed as openpi and LeRobot process them.

Their results are files; make_{openpi,lerobot}_processing.py say how they are made.
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from selfalign.align.robot_numbers import RobotNumbers
from selfalign.data.observation import encode_frames
from selfalign.data.resize import resize_with_pad
from selfalign.data.spec import Camera, Dimension, RobotSpec
from selfalign.model.config import dummy_config
from selfalign.model.policy import Policy
from selfalign.model.processing import Processing, Statistics
from selfalign.model.tokenizer import PromptEncoder, read_tokenizer, state_prompt
from tests.parity import samples

HERE = Path(__file__).parent
SOURCES = ("openpi", "lerobot")
METHODS = {
    "openpi": ("z_score", "quantile"),
    "lerobot": ("z_score", "quantile", "quantile10", "min_max"),
}
CASES = [(source, method) for source in SOURCES for method in METHODS[source]]
# One rounding of float32; the sources convert to it at different moments.
ROUNDING = 2e-7
CONFIG = dummy_config().model_copy(update={"state_dim": samples.WIDTH, "action_dim": samples.WIDTH})


def fixtures(source: str) -> dict[str, NDArray[np.floating]]:
    return load_file(HERE / f"{source}_processing.safetensors")


def rows(source: str) -> list[dict[str, object]]:
    return json.loads((HERE / f"{source}_prompts.json").read_text(encoding="utf-8"))


def spec_of(shape: tuple[int, int] = (8, 8)) -> RobotSpec:
    def dimensions(name: str, count: int) -> tuple[Dimension, ...]:
        return tuple(Dimension(name=f"{name}{i}", unit="", low=-1, high=1) for i in range(count))

    return RobotSpec(
        name="arm",
        rate_hz=10,
        cameras=(Camera(name="front", height=shape[0], width=shape[1]),),
        state=dimensions("s", samples.STATES),
        action=dimensions("a", samples.ACTIONS),
    )


def processing_of(source: str, method: str, *, delta: bool = False) -> Processing:
    return Processing(
        source=source,
        state=Statistics(method=method, **samples.STATISTICS["state"]),
        action=Statistics(method=method, **samples.STATISTICS["action"]),
        delta_actions=samples.DELTA if delta else None,
    )


def numbers(source: str, method: str, *, delta: bool = False) -> RobotNumbers:
    return RobotNumbers(spec_of(), CONFIG, processing_of(source, method, delta=delta))


def same(ours: NDArray[np.float32], theirs: NDArray[np.floating]) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(("source", "method"), CASES)
def test_numbers_are_normalised_as_by_the_source(source: str, method: str) -> None:
    theirs, ours = fixtures(source), numbers(source, method)
    state, actions = samples.raw("state", 4), samples.raw("action", 4, samples.HORIZON)
    same(ours.state(state)[..., : samples.STATES], theirs[f"{method}.state"])
    padded = ours.actions(actions, state)
    same(padded[..., : samples.ACTIONS], theirs[f"{method}.actions"])
    assert not padded[..., samples.ACTIONS :].any()


@pytest.mark.parametrize(("source", "method"), CASES)
def test_a_chunk_is_denormalised_and_cut_to_the_robot(source: str, method: str) -> None:
    made, state = samples.normalised(4, samples.HORIZON), samples.raw("state", 4)
    chunk = numbers(source, method).raw_actions(made, state)
    assert chunk.shape == (4, samples.HORIZON, samples.ACTIONS)
    same(chunk, fixtures(source)[f"{method}.back"][..., : samples.ACTIONS])


@pytest.mark.parametrize(("source", "method"), CASES)
def test_delta_actions_go_in_and_come_out_as_by_the_source(source: str, method: str) -> None:
    theirs, ours = fixtures(source), numbers(source, method, delta=True)
    state, actions = samples.raw("state", 4), samples.raw("action", 4, samples.HORIZON)
    given = ours.actions(actions, state)[..., : samples.ACTIONS]
    same(given, theirs[f"{method}.delta"][..., : samples.ACTIONS])
    made = samples.normalised(4, samples.HORIZON)
    same(ours.raw_actions(made, state), theirs[f"{method}.absolute"])


@pytest.mark.parametrize("source", SOURCES)
def test_every_step_of_a_chunk_is_relative_to_its_start_but_the_gripper(source: str) -> None:
    state, actions = samples.raw("state", 4), samples.raw("action", 4, samples.HORIZON)
    theirs = fixtures(source)["relative"]
    relative = np.array([True, True, False, True, False])
    expected = actions - np.where(relative, state[:, None, : samples.ACTIONS], 0)
    same(expected.astype(np.float32), theirs)
    np.testing.assert_array_equal(theirs[..., ~relative], actions[..., ~relative])


def test_openpi_leaves_the_padding_of_an_action_as_it_is() -> None:
    """The trap: mean 0 and standard deviation 1 stand for numbers without statistics."""
    made = samples.normalised(4, samples.HORIZON)
    padding = fixtures("openpi")["z_score.back"][..., samples.ACTIONS :]
    np.testing.assert_allclose(padding, made[..., samples.ACTIONS :], rtol=2e-6)


@pytest.mark.parametrize("shape", samples.IMAGE_SHAPES)
def test_bytes_are_resized_as_openpi_serves_them(shape: tuple[int, int]) -> None:
    """openpi has three resizings; ResizeImages, which serves, is that of openpi-client: PIL."""
    ours = resize_with_pad(samples.image(shape), samples.IMAGE_SIDE)
    theirs = fixtures("openpi")[f"image.{shape[0]}x{shape[1]}"]
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", samples.IMAGE_SHAPES)
@pytest.mark.parametrize(("resize", "source"), [("pil", "openpi"), ("torch", "lerobot")])
def test_the_policy_sees_the_images_of_the_source(
    shape: tuple[int, int], resize: Literal["pil", "torch"], source: str
) -> None:
    side, frames = samples.IMAGE_SIDE, {"front": samples.image(shape)[None]}
    images, mask = encode_frames(frames, spec_of(shape), side, 2, resize=resize)
    theirs = fixtures(source)[f"image.{shape[0]}x{shape[1]}"]
    if source == "openpi":
        theirs = theirs.astype(np.float32) / 255.0 * 2.0 - 1.0
    assert mask.tolist() == [True, False]
    np.testing.assert_allclose(images[0, 0], theirs.transpose(2, 0, 1), atol=3e-7, rtol=0)


def test_prompts_have_the_tokens_of_openpi_s_tokenizer() -> None:
    prompts = PromptEncoder(read_tokenizer(HERE / "pieces.model"), 150)
    for row in rows("openpi"):
        state = None if row["state"] is None else np.array(row["state"])
        assert prompts.ids(row["text"], state) == row["ids"]


def test_state_prompts_are_lerobot_s_to_the_letter() -> None:
    for row in rows("lerobot"):
        state = np.array(row["state"], np.float32)
        assert state_prompt(row["text"], state) == row["prompt"]


@pytest.mark.parametrize("source", SOURCES)
def test_pi0_s_instruction_is_cleaned_by_openpi_alone(source: str) -> None:
    """LeRobot's pi0 reads a task as it stands, with a newline where it ends without one."""
    config = CONFIG.model_copy(update={"vocab_size": 4096})
    tokenizer = read_tokenizer(HERE / "pieces.model")
    policy = Policy(config, tokenizer)
    # As `load_policy` does.
    policy.processing = processing_of(source, "z_score")
    prompts = policy.prompts
    assert prompts.ids("pick_up\n") == prompts.ids("pick_up")
    assert (prompts.ids(" pick_up ") == prompts.ids("pick up")) == (source == "openpi")
    # The small tokenizer spells an underscore as a byte.
    pieces = [prompts.tokenizer.id_to_token(i) for i in prompts.ids("pick_up")]
    assert ("<0x5F>" in pieces) == (source == "lerobot")


def test_the_prompt_reads_the_state_in_the_precision_of_the_source() -> None:
    """A float32 rounding before the bins would move a number across an edge."""
    state = samples.raw("state", 4)
    openpi, lerobot = (numbers(s, "z_score").state_normaliser.exact(state) for s in SOURCES)
    assert (openpi.dtype, lerobot.dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(openpi, fixtures("openpi")["z_score.state"])
    np.testing.assert_array_equal(lerobot, fixtures("lerobot")["z_score.state"])
