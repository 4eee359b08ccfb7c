"""Record motion once: play and demonstrations of many cameras and arms, and single frames."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from selfalign.data.recording import RecordingWriter
from selfalign.pretrain.config import RecordConfig
from selfalign.sim.cameras import CameraSector, SectorWithout, random_camera
from selfalign.sim.env import KEYPOINTS, SimEnv
from selfalign.sim.frames import random_frame
from selfalign.sim.recording import record_episode
from selfalign.sim.robots import make_arm
from selfalign.sim.tasks import get_task

_LONGEST_DEMO = 90
# The procedural arms of single frames are others than those of groups, held-out ones above all.
_FRAME_ARM = 1_000_000


def record_missing(config: RecordConfig, run: Path) -> None:
    """Record into `run/recording` and `run/frames` what is not there yet."""
    if not (run / "recording" / "episodes.json").exists():
        record_groups(config, run / "recording")
    if config.frames and not (run / "frames" / "keypoints.npy").exists():
        record_frames(config, run / "frames")


def record_groups(config: RecordConfig, directory: Path) -> None:
    """Record `config.groups` groups into a new directory. Raises StoreError if it exists."""
    longest = config.play_episodes * config.play_steps + config.demos * _LONGEST_DEMO
    rng = np.random.default_rng(config.seed)
    arms = _arms(rng, config, np.arange(config.groups))
    sector = _sector(config)
    with RecordingWriter(directory, config.groups * longest, len(KEYPOINTS)) as writer:
        for arm, groups in _by_arm(arms):
            with SimEnv(make_arm(arm)) as env:
                for group in tqdm(groups, desc=f"record {arm}", mininterval=5):
                    env.set_cameras({"front": random_camera(rng, sector)})
                    for rows, meta in _group(env, config, rng):
                        writer.append_episode(rows, {**meta, "group": group})


def record_frames(config: RecordConfig, directory: Path) -> None:
    """Render `config.frames` single random frames as one array; redoes an unfinished run."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(config.seed + 1)
    arms = _arms(rng, config, _FRAME_ARM + rng.integers(config.frame_arms, size=config.frames))
    sector = _sector(config)
    images = np.lib.format.open_memmap(
        directory / "images.npy", "w+", dtype=np.uint8, shape=(config.frames, 96, 96, 3)
    )
    points = np.zeros((config.frames, len(KEYPOINTS), 3), np.float32)
    for arm, rows in _by_arm(arms):
        with SimEnv(make_arm(arm)) as env:
            for row in tqdm(rows, desc=f"frames {arm}", mininterval=5):
                frame = random_frame(env, rng, sector)
                images[row], points[row] = frame.image, frame.keypoints
    images.flush()
    np.save(directory / "keypoints.npy", points)


def _group(
    env: SimEnv, config: RecordConfig, rng: np.random.Generator
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, object]]]:
    for _ in range(config.play_episodes):
        yield record_episode(env, "play", rng, steps=config.play_steps)
    tasks = _choose(rng, config.tasks, config.demos)
    for index, task in enumerate(tasks):
        env.task = get_task(task)
        noise = config.demo_noise if index % 2 else 0.0
        yield record_episode(env, "demo", rng, noise=noise)


def _choose(rng: np.random.Generator, shares: dict[str, float], count: int) -> list[str]:
    names, weights = list(shares), np.array(list(shares.values()))
    return [names[i] for i in rng.choice(len(names), count, p=weights / weights.sum())]


def _arms(rng: np.random.Generator, config: RecordConfig, groups: NDArray[np.integer]) -> list[str]:
    """An arm for each entry of `groups`; `procedural` is the random arm of that number."""
    chosen = _choose(rng, config.arms, len(groups))
    return [
        f"procedural-{group}" if arm == "procedural" else arm
        for arm, group in zip(chosen, groups, strict=True)
    ]


def _sector(config: RecordConfig) -> CameraSector | SectorWithout:
    sector = CameraSector(azimuth_deg=config.azimuth_deg)
    gap = config.azimuth_gap_deg
    return sector if gap is None else SectorWithout(gap, sector)


def _by_arm(arms: list[str]) -> Iterator[tuple[str, list[int]]]:
    """Group indices by arm, so that each arm's scene is built once."""
    order = sorted(range(len(arms)), key=lambda i: (arms[i], i))
    for arm, indices in itertools.groupby(order, key=lambda i: arms[i]):
        yield arm, list(indices)
