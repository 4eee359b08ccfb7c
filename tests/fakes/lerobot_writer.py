"""Makes a dataset with lerobot itself: `ENV/bin/python lerobot_writer.py ROOT video|image`.

Runs alone, in an environment of its own that has lerobot (test_lerobot_itself.py starts it). Takes
ROOT/source.npz: episode, task, state, action, and each camera's images of every frame. ROOT/dataset
is the dataset; ROOT/read.npz is what lerobot reads from it by its own means: observation t, action
t and observation t + 1 by delta_timestamps, and which of these lerobot calls padding.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

FPS = 10


def main(root: Path, kind: str) -> None:
    """Write the dataset, then read it by lerobot."""
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

    deltas = {"observation.state": [0.0, 1 / FPS], "action": [0.0]}
    if kind == "image":
        deltas |= {key: [0.0, 1 / FPS] for key in cameras}
    again = LeRobotDataset("local/test", root=root / "dataset", delta_timestamps=deltas)
    columns: dict[str, list[np.ndarray]] = {}
    for index in range(len(source["episode"])):
        # Videos need torchcodec or an old torchvision; the rows alone do without.
        item = again[index] if kind == "image" else _rows_alone(again, index)
        for key, value in item.items():
            if hasattr(value, "numpy"):
                columns.setdefault(key, []).append(value.numpy())
    np.savez(root / "read.npz", **{key: np.stack(values) for key, values in columns.items()})


def _rows_alone(dataset: Any, index: int) -> dict[str, Any]:
    item = dataset.hf_dataset[index]
    indices, padding = dataset._get_query_indices(index, item["episode_index"].item())
    return item | padding | dataset._query_hf_dataset(indices)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
