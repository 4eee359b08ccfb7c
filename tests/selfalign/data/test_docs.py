"""Every Python sample of docs/data.md runs, in the order of a reader who tries them all."""

import re
import shutil
from pathlib import Path

import numpy as np

from selfalign.data.play_store import PlayStore
from selfalign.data.spec import RobotSpec
from tests.fakes.play_steps import step

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "data.md").read_text()
SAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def record_one(spec: RobotSpec) -> None:
    """Record what the first sample reads."""
    with PlayStore(Path("data/play"), quota_bytes=10**9, min_free_bytes=0) as store:
        writer = store.start_episode(spec)
        for i in range(5):
            writer.append(step(i, spec))
        writer.seal()


def test_samples_of_the_data_page_run(tmp_path, monkeypatch, capsys):
    assert len(SAMPLES) == 8
    shutil.copytree(ROOT / "server" / "specs", tmp_path / "server" / "specs")
    monkeypatch.chdir(tmp_path)
    record_one(RobotSpec.from_file(Path("server/specs/panda.yaml")))
    names: dict = {}
    for sample in SAMPLES:
        exec(compile(sample, "docs/data.md", "exec"), names)
    assert names["steps"].images["front"].shape == (5, 96, 96, 3)
    assert names["info"].length == 40
    assert not np.any(names["episode"].read(0, 40).images["front"])
    assert "panda 5 (5, 96, 96, 3)" in capsys.readouterr().out
