"""docs/contrastive_learning.md: the code that it names exists, samples run, numbers hold."""

import ast
import re
import tomllib
from pathlib import Path

import numpy as np

from selfalign.align.augment_appearance import AppearanceConfig
from selfalign.model.config import tiny_config
from selfalign.pretrain.config import Stage1Config

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "contrastive_learning.md").read_text(encoding="utf-8")


def defined(path: Path) -> set[str]:
    """Classes, functions and methods (`Class.method`) of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (item for item in node.body if isinstance(item, ast.FunctionDef))
            names |= {f"{node.name}.{item.name}" for item in inner}
    return names


def test_the_code_that_it_names_exists():
    named = set(re.findall(r"`((?:selfalign|tests)/[\w/]+\.py)::([\w.]+)`", TEXT))
    assert len(named) >= 6
    for path, name in named:
        assert name in defined(ROOT / path), (path, name)
    maps = defined(ROOT / "selfalign/align/action_maps.py")
    table = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)
    assert len(table) == 6
    assert set(table) <= maps
    tests = (ROOT / "tests/selfalign").rglob("test_contrastive*.py")
    every = set().union(*(defined(path) for path in tests))
    for name in re.findall(r"`(test_\w+)`", TEXT):
        assert name in every, name


def test_the_python_sample_runs(capsys):
    (sample,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names: dict = {}
    exec(compile(sample, "docs/contrastive_learning.md", "exec"), names)
    out = capsys.readouterr().out
    assert out.count("(2, 32)") == 4
    moved = names["to_tool"].apply(names["actions"], names["joints"]) - names["position"]
    # The first joint turns the tool about the base, the second about the elbow.
    radius = np.hypot(*names["position"][0, :2])
    np.testing.assert_allclose(np.linalg.norm(moved[0]), 0.02 * radius, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(moved[1]), 0.05 * 0.2, rtol=1e-3)


def test_the_toml_sample_is_the_default_but_for_the_weight():
    (sample,) = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    read = Stage1Config.model_validate(tomllib.loads(sample)["stage1"])
    assert read == Stage1Config(lambda_contrastive=0.1)


def test_numbers_of_the_text_are_those_of_the_code():
    config, looks = tiny_config(), AppearanceConfig()
    dim = config.ttt_head_dim
    numbers = len(config.ttt_layers) * config.ttt.heads * dim * (dim + 1)
    assert f"{numbers:,} in the model that ships" in TEXT
    assert (looks.brightness, looks.contrast, looks.saturation) == (0.3, 0.3, 0.3)
    assert (looks.hue, looks.blur, looks.noise) == (0.05, 0.01, 0.02)
