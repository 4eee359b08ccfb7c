"""Frames of a video by their time, whatever its codec and however it is cut."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("pyarrow") is None or importlib.util.find_spec("av") is None:
    pytest.skip("pyarrow or PyAV is not installed", allow_module_level=True)

from selfalign.data.lerobot_format import LeRobotError
from selfalign.data.lerobot_video import read_frames
from tests.fakes.lerobot_dataset import FPS, HEIGHT, WIDTH, frame_of, numbers_of, write_video


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "8", "bf": "3", "x264-params": "b-adapt=0:scenecut=0"}),
        ("libx264", {"g": "8", "bf": "3", "x264-params": "b-adapt=0:scenecut=0:open-gop=1"}),
        ("libx264", {"g": "2", "bf": "0"}),
        ("mpeg4", {"g": "12", "q:v": "2"}),
    ],
)
def test_every_frame_of_a_video_is_found_by_its_time(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    file = tmp_path / "video.mp4"
    write_video(file, [frame_of(n) for n in range(1, 42)], codec=codec, options=options)
    for t in range(41):
        images = read_frames(file, np.array([t / FPS]), 0.025)
        assert numbers_of(images) == [t + 1]
    rows = np.array([3, 4, 9, 30, 40])
    assert numbers_of(read_frames(file, rows / FPS, 0.025)) == (rows + 1).tolist()


def test_the_nearest_frame_is_taken_where_several_are_near_enough(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    images = [frame_of(n) for n in range(1, 9)]
    write_video(file, images, codec="libx264", options={"g": "4", "bf": "2"})
    # The dataset runs at a quarter of the video's rate: its tolerance spans several frames.
    assert numbers_of(read_frames(file, np.array([0.0, 0.42]), 0.24)) == [1, 5]


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    file, red = tmp_path / "video.mp4", np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 220
    write_video(file, [red], codec="libx264", options={"crf": "1"})
    (image,) = read_frames(file, np.array([0.0]), 0.025)
    assert np.abs(image.astype(int) - red).max() < 12


@pytest.mark.parametrize("wanted", [0.15, 4.0])
def test_a_time_without_a_frame_is_refused(tmp_path: Path, wanted: float) -> None:
    file = tmp_path / "video.mp4"
    write_video(file, [frame_of(n) for n in range(8)], codec="libx264", options={"bf": "2"})
    with pytest.raises(LeRobotError, match=r"video.mp4: no frame at .* s: the nearest is at"):
        read_frames(file, np.array([wanted]), 0.025)
