"""Makes a dataset with lerobot itself: `ENV/bin/python lerobot_writer.py ROOT video|image|read`.

Runs alone, in an environment of its own that has lerobot (test_lerobot_itself.py starts it). Takes
ROOT/source.npz: episode, task, state, action, and each camera's images of every frame. ROOT/dataset
is the dataset; ROOT/read.npz is what lerobot reads from it by its own means: observation t, action
t and observation t + 1 by delta_timestamps, and which of these lerobot calls padding. `read` only
reads: a dataset that is there already.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

FPS = 10


def main(root: Path, kind: str) -> None:
    """Write the dataset, then read it by lerobot."""
    if kind != "read":
        write(root, kind)
    read(root, kind)


def write(root: Path, kind: str) -> None:
    """Write the dataset."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    source = dict(np.load(root / "source.npz"))
    cameras = [key for key in source if key.startswith("observation.images.")]
    names = {"names": ["height", "width", "channels"]}
    features = {
        key: {"dtype": "float32", "shape": source[key].shape[1:], "names": None}
        for key in ("observation.state", "action")
    } | {key: {"dtype": kind, "shape": source[key].shape[1:], **names} for key in cameras}
    dataset = LeRobotDataset.create(
        "local/test",
        fps=FPS,
        features=features,
        root=root / "dataset",
        robot_type="so100_follower",
        use_videos=kind == "video",
    )
    for episode in np.unique(source["episode"]):
        for row in np.flatnonzero(source["episode"] == episode):
            frame = {key: source[key][row] for key in features}
            dataset.add_frame(frame | {"task": str(source["task"][row])})
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


def read(root: Path, kind: str) -> None:
    """Read the dataset."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata

    metadata = LeRobotDatasetMetadata("local/test", root=root / "dataset")
    cameras = metadata.camera_keys
    deltas = {"observation.state": [0.0, 1 / FPS], "action": [0.0]}
    if kind != "video":
        deltas |= {key: [0.0, 1 / FPS] for key in cameras}
    again = LeRobotDataset("local/test", root=root / "dataset", delta_timestamps=deltas)
    columns: dict[str, list[np.ndarray]] = {}
    tasks = []
    for index in range(metadata.total_frames):
        # Videos need torchcodec or an old torchvision; the rows alone do without.
        item = _rows_alone(again, index) if kind == "video" else again[index]
        tasks.append(item.get("task", ""))
        for key, value in item.items():
            if hasattr(value, "numpy"):
                columns.setdefault(key, []).append(value.numpy())
    stacked = {key: np.stack(values) for key, values in columns.items()}
    limits = {f"limits/{k}": np.stack([v["min"], v["max"]]) for k, v in metadata.stats.items()}
    np.savez(root / "read.npz", tasks=np.array(tasks), **stacked, **limits)


def _rows_alone(dataset: Any, index: int) -> dict[str, Any]:
    item = dataset.hf_dataset[index]
    indices, padding = dataset._get_query_indices(index, item["episode_index"].item())
    return item | padding | dataset._query_hf_dataset(indices)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
