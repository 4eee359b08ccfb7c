"""The picture is written, whatever came out."""

from pathlib import Path

import pytest
from PIL import Image

from deploy.demo.picture import chosen_episode, draw
from deploy.demo.report import successes
from deploy.demo.story import Story
from selfalign.experiments.paired import compare
from tests.fakes.demo_stories import story


def drawn(path: Path, *stories: Story) -> Image.Image:
    draw(stories, compare(successes(stories)), title="Reach", path=path)
    return Image.open(path)


@pytest.mark.parametrize("count", [1, 3])
def test_a_picture_for_one_robot_and_for_several(tmp_path: Path, count: int) -> None:
    stories = [story([False, False], [True, False], index=i) for i in range(count)]
    with drawn(tmp_path / "new" / "demo.png", *stories) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(image.convert("L").getcolors(256) or []) > 50, "not blank"


def test_a_picture_without_any_loss_is_still_drawn(tmp_path: Path) -> None:
    silent = story([False], [False])
    silent.curve.steps.clear()
    silent.curve.losses.clear()
    with drawn(tmp_path / "demo.png", silent) as image:
        assert image.format == "PNG"


def test_the_film_shows_the_first_episode_that_turned() -> None:
    none, some = story([True, False], [True, False]), story([False, False], [False, True])
    assert chosen_episode([none, some]) == (some, 1)
    assert chosen_episode([none]) == (none, 0)
