"""norm_stats.json: what is read, and what is refused by name."""

from pathlib import Path

import pytest

from selfalign.errors import ModelError
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.processing import NORM_STATS, Processing, Statistics
from tests.fakes.models import random_policy

STATE = Statistics(method="z_score", mean=(0.0, 1.0), std=(1.0, 0.0))
ACTION = Statistics(method="quantile", q01=(-1.0,), q99=(2.0,))
PROCESSING = Processing(
    source="openpi", state=STATE, action=ACTION, delta_actions=(True,), state_in_prompt=False
)


def test_it_survives_its_file(tmp_path: Path) -> None:
    PROCESSING.save(tmp_path / NORM_STATS)
    assert Processing.of_directory(tmp_path) == PROCESSING
    assert "q01" not in (tmp_path / NORM_STATS).read_text("utf-8").split('"action"')[0]


def test_a_directory_without_the_file_has_no_processing(tmp_path: Path) -> None:
    assert Processing.of_directory(tmp_path) is None


def test_it_travels_with_the_model_directory(tmp_path: Path) -> None:
    policy = random_policy()
    policy.processing = PROCESSING
    save_policy(policy, tmp_path)
    assert load_policy(tmp_path).processing == PROCESSING


def test_null_lists_are_lists_that_are_not_there(tmp_path: Path) -> None:
    """openpi writes null for quantiles that it has not computed."""
    text = '{"method": "z_score", "mean": [0], "std": [1], "q01": null, "q99": null}'
    path = tmp_path / NORM_STATS
    path.write_text(f'{{"source": "openpi", "state": {text}, "action": {text}}}', "utf-8")
    assert Processing.load(path).state.lists == ((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ('{"method": "quantile", "mean": [0], "std": [1]}', "needs the lists q01 and q99"),
        ('{"method": "z_score", "mean": [0, 1], "std": [1]}', "mean has 2 numbers and std has 1"),
        ('{"method": "z_score", "mean": [], "std": []}', "mean has 0 numbers"),
        ('{"method": "z_score", "mean": [0], "std": [-1]}', r"std\[0\] is -1.0, below 0.0"),
        ('{"method": "min_max", "min": [0], "max": [-1]}', r"max\[0\] is -1.0, below 0.0"),
        ('{"method": "z_score", "mean": [NaN], "std": [1]}', "finite"),
        ('{"method": "log"}', "state.method"),
        ('{"method": "identity", "median": []}', "state.median"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, state: str, message: str) -> None:
    path = tmp_path / NORM_STATS
    action = '{"method": "identity"}'
    path.write_text(f'{{"source": "openpi", "state": {state}, "action": {action}}}', "utf-8")
    with pytest.raises(ModelError, match=message):
        Processing.load(path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]"])
def test_a_broken_file_is_no_normalisation(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NORM_STATS).write_bytes(content)
    with pytest.raises(ModelError, match="is no normalisation"):
        Processing.of_directory(tmp_path)
