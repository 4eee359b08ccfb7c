"""Record motion once: play and demonstrations of many cameras and arms, and single frames."""

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from selfalign.data.recording import RecordingWriter, join_recordings
from selfalign.errors import StoreError
from selfalign.pretrain.config import RecordConfig
from selfalign.pretrain.draws import choose
from selfalign.pretrain.record_parts import run_parts
from selfalign.sim.cameras import CameraSector, SectorWithout, random_camera
from selfalign.sim.env import KEYPOINTS, SimEnv
from selfalign.sim.frames import random_frame
from selfalign.sim.recording import record_episode
from selfalign.sim.robots import make_arm
from selfalign.sim.tasks import get_task

_LONGEST_DEMO = 90
# The procedural arms of single frames are others than those of groups, held-out ones above all.
_FRAME_ARM = 1_000_000
# Another seed records other procedural arms.
_ARMS_OF_SEED = 10_000
_PART_GROUPS, _PART_FRAMES = 50, 2000
# Streams of random numbers.
_OF_GROUPS, _OF_FRAMES = 5, 6


def record_missing(config: RecordConfig, run: Path, jobs: int | None = None) -> None:
    """Record into `run/recording` and `run/frames` what is not there yet, by `jobs` processes."""
    if not (run / "recording" / "episodes.json").exists():
        record_groups(config, run / "recording", jobs)
    if config.frames and not (run / "frames" / "keypoints.npy").exists():
        record_frames(config, run / "frames", jobs)


def record_groups(config: RecordConfig, directory: Path, jobs: int | None = None) -> None:
    """Record `config.groups` groups into a new directory. Raises StoreError if it exists.

    Parts are recorded beside it and joined at the end; a run that was stopped keeps those that are
    whole. What is recorded does not depend on the number of processes.
    """
    if (directory / "episodes.json").exists():
        raise StoreError(f"{directory} holds a recording already; choose another directory")
    first = config.seed * _ARMS_OF_SEED
    arms = _arms(np.random.default_rng(config.seed), config, first + np.arange(config.groups))
    folder = _parts_folder(config, directory)
    parts = [
        GroupsPart(config, folder / str(number), tuple((arms[i], i) for i in rows))
        for number, rows in enumerate(_parts(arms, _PART_GROUPS))
    ]
    missing = [part for part in parts if not (part.directory / "episodes.json").exists()]
    for _ in run_parts(missing, jobs, "record"):
        pass
    join_recordings([part.directory for part in parts], directory)
    shutil.rmtree(folder)


def record_frames(config: RecordConfig, directory: Path, jobs: int | None = None) -> None:
    """Render `config.frames` single random frames as one array; redoes an unfinished run."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(config.seed + 1)
    arms = _arms(rng, config, _FRAME_ARM + rng.integers(config.frame_arms, size=config.frames))
    images = directory / "images.npy"
    np.lib.format.open_memmap(images, "w+", dtype=np.uint8, shape=(config.frames, 96, 96, 3))
    points = np.zeros((config.frames, len(KEYPOINTS), 3), np.float32)
    parts = [
        FramesPart(config, images, number, tuple((arms[i], i) for i in rows))
        for number, rows in enumerate(_parts(arms, _PART_FRAMES))
    ]
    for part, found in run_parts(parts, jobs, "frames"):
        points[[row for _, row in part.rows]] = found
    np.save(directory / "keypoints.npy", points)


@final
@dataclass(frozen=True)
class GroupsPart:
    """Some groups of a recording, as pairs of arm and group, and where they are recorded."""

    config: RecordConfig
    directory: Path
    groups: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.groups)

    def record(self) -> None:
        """Record them; redoes what was not finished."""
        config, sector = self.config, _sector(self.config)
        longest = config.play_episodes * config.play_steps + config.demos * _LONGEST_DEMO
        with RecordingWriter(self.directory, len(self) * longest, len(KEYPOINTS)) as writer:
            for arm, members in _by_arm(self.groups):
                with SimEnv(make_arm(arm)) as env:
                    for group in members:
                        rng = np.random.default_rng((config.seed, _OF_GROUPS, group))
                        env.set_cameras({"front": random_camera(rng, sector)})
                        for rows, meta in _group(env, config, rng):
                            writer.append_episode(rows, {**meta, "group": group})


@final
@dataclass(frozen=True)
class FramesPart:
    """Some single frames, as pairs of arm and row of the array of images."""

    config: RecordConfig
    images: Path
    number: int
    rows: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.rows)

    def record(self) -> NDArray[np.float32]:
        """Render them into the array. Returns their key points [n, K, 3], in order."""
        rng = np.random.default_rng((self.config.seed, _OF_FRAMES, self.number))
        sector = _sector(self.config)
        images = np.lib.format.open_memmap(self.images, "r+")
        points = []
        for arm, members in _by_arm(self.rows):
            with SimEnv(make_arm(arm)) as env:
                for row in members:
                    frame = random_frame(env, rng, sector)
                    images[row] = frame.image
                    points.append(frame.keypoints)
        images.flush()
        return np.stack(points).astype(np.float32)


def _group(
    env: SimEnv, config: RecordConfig, rng: np.random.Generator
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, object]]]:
    for _ in range(config.play_episodes):
        yield record_episode(env, "play", rng, steps=config.play_steps)
    tasks = choose(rng, config.tasks, config.demos)
    for index, task in enumerate(tasks):
        env.task = get_task(task)
        noise = config.demo_noise if index % 2 else 0.0
        yield record_episode(env, "demo", rng, noise=noise)


def _arms(rng: np.random.Generator, config: RecordConfig, groups: NDArray[np.integer]) -> list[str]:
    """An arm for each entry of `groups`; `procedural` is the random arm of that number."""
    chosen = choose(rng, config.arms, len(groups))
    return [
        f"procedural-{group}" if arm == "procedural" else arm
        for arm, group in zip(chosen, groups, strict=True)
    ]


def _sector(config: RecordConfig) -> CameraSector | SectorWithout:
    sector = CameraSector(azimuth_deg=config.azimuth_deg)
    gap = config.azimuth_gap_deg
    return sector if gap is None else SectorWithout(gap, sector)


def _parts(arms: list[str], size: int) -> list[list[int]]:
    """Indices in parts of `size`; those of an arm stand together, so that its scene serves many."""
    order = sorted(range(len(arms)), key=lambda i: (arms[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _by_arm(pairs: Sequence[tuple[str, int]]) -> Iterator[tuple[str, list[int]]]:
    for arm, members in itertools.groupby(pairs, key=lambda pair: pair[0]):
        yield arm, [index for _, index in members]


def _parts_folder(config: RecordConfig, directory: Path) -> Path:
    """Where the parts of a recording are; empty, unless they are of this very configuration."""
    folder = directory.with_name(f"{directory.name}.parts")
    text, file = config.model_dump_json(), folder / "config.json"
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
    return folder
