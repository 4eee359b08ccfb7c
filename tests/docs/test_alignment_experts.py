"""docs/alignment_experts.md: its numbers are the code's, and the code that it names exists."""

import ast
import re
from pathlib import Path

import pytest

from selfalign.align.aligner import AlignmentConfig
from selfalign.align.losses import NAMES
from tests.docs import figures

ROOT = Path(__file__).parents[2]
TEXT = figures.EXPERTS.read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:selfalign|server|client|tests)/[\w/.]+)::([\w.]+)`", TEXT)))


def defined(path: Path) -> set[str]:
    """Functions, classes, constants and methods (`Class.method`) of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (item for item in node.body if isinstance(item, ast.FunctionDef))
            names |= {f"{node.name}.{item.name}" for item in inner}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_the_code_that_it_names_exists(path: str, name: str) -> None:
    assert name in defined(ROOT / path)


def test_the_tables_are_what_the_code_computes() -> None:
    parts = figures.experts_parts()
    assert figures.with_parts(TEXT, parts) == TEXT, "run: python -m tests.docs.figures"


def test_it_names_every_loss_and_the_settings_of_a_session() -> None:
    for name in NAMES:
        assert f"`alignment/{name}`" in TEXT
        assert f"`lambda_{name}`" in TEXT
    config = AlignmentConfig()
    assert f"{config.steps} steps of {config.batch_size} transitions" in TEXT
    assert f"learning rate {config.learning_rate:g}" in TEXT
    assert len(NAMED) > 20
