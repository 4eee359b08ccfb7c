"""What config.json says of a converted checkpoint's source: its cameras, its sampler's clock."""

from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import ModelError
from selfalign.model.config import ModelConfig
from selfalign.model.convert import convert
from tests.fakes.published import (
    OPENPI,
    fork_shapes,
    published_shapes,
    random_tensors,
    small_config,
    write_checkpoint,
)

OPENPI_CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


def lerobot(*keys: str) -> dict[str, Any]:
    """The config.json of LeRobot with these inputs, in this order."""
    features = {key: {"type": "VISUAL", "shape": [3, 224, 224]} for key in keys}
    state = {"observation.state": {"type": "STATE", "shape": [32]}}
    return {"type": "pi0", "chunk_size": 6, "input_features": {**features, **state}}


def converted(
    tmp_path: Path, told: dict[str, Any] = OPENPI, *, fork: bool = False, **options: Any
) -> ModelConfig:
    shapes = published_shapes(small_config())
    shapes |= fork_shapes(small_config()) if fork else {}
    source = write_checkpoint(tmp_path / "source", random_tensors(shapes), told)
    convert(source, tmp_path / "target", like=small_config(), **options)
    return ModelConfig.load(tmp_path / "target" / "config.json")


@pytest.mark.parametrize(
    ("told", "cameras"),
    [
        (OPENPI, OPENPI_CAMERAS),
        (lerobot(*(f"observation.images.{name}" for name in OPENPI_CAMERAS)), OPENPI_CAMERAS),
        (
            lerobot("observation.images.wrist", "observation.images.top", "observation.image"),
            ("wrist", "top", "observation.image"),
        ),
        (lerobot("observation.images.top", "observation.images.empty_camera_0"), ("top",)),
        ({"type": "pi0", "chunk_size": 6}, ()),
    ],
)
def test_order_of_the_cameras_is_that_of_the_source(
    tmp_path: Path, told: dict[str, Any], cameras: tuple[str, ...]
) -> None:
    assert converted(tmp_path, told).cameras == cameras


def test_cameras_may_be_called_what_the_robot_calls_them(tmp_path: Path) -> None:
    assert converted(tmp_path, cameras=("front", "wrist")).cameras == ("front", "wrist")
    convert(tmp_path / "target", tmp_path / "again", cameras=("top", "hand"))
    assert ModelConfig.load(tmp_path / "again" / "config.json").cameras == ("top", "hand")


@pytest.mark.parametrize(
    ("cameras", "told"),
    [(("a", "b", "c", "d"), "4 names for cameras"), (("a", "a"), "each once")],
)
def test_names_that_are_no_names_of_cameras(
    tmp_path: Path, cameras: tuple[str, ...], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        converted(tmp_path, cameras=cameras)
    assert not (tmp_path / "target").exists()


def test_model_without_names_of_cameras_keeps_its_identity() -> None:
    config = small_config()
    assert '"cameras"' not in config.identity()
    assert '"cameras":["a"]' in config.model_copy(update={"cameras": ("a",)}).identity()


@pytest.mark.parametrize(
    ("told", "fork", "clock"),
    [(OPENPI, False, "summed"), (OPENPI, True, "summed"), (lerobot(), False, "even")],
)
def test_clock_of_the_sampler_is_that_of_the_source(
    tmp_path: Path, told: dict[str, Any], *, fork: bool, clock: str
) -> None:
    """openpi adds up -1 / steps in float32; LeRobot takes 1 - i / steps, on weights of openpi's."""
    assert converted(tmp_path, told, fork=fork).flow_clock == clock
    convert(tmp_path / "target", tmp_path / "again")
    assert ModelConfig.load(tmp_path / "again" / "config.json").flow_clock == clock


def test_model_that_was_made_before_clocks_had_a_name_keeps_its_identity() -> None:
    config = small_config()
    assert '"flow_clock"' not in config.identity()
    assert '"flow_clock":"summed"' in config.model_copy(update={"flow_clock": "summed"}).identity()
