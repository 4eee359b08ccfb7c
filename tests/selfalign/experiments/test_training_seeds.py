"""Several training seeds of one recipe, on the same robots and starts."""

import json
from pathlib import Path

import pytest

from selfalign.cli import main
from selfalign.experiments.cells import cells_of
from selfalign.experiments.settings import Settings
from selfalign.experiments.summary import CellResult
from selfalign.experiments.training_seeds import by_cell, seeds_table
from selfalign.model.checkpoint import save_policy
from tests.fakes.models import random_policy
from tests.selfalign.experiments.test_calibration import robot


def cell_result(after: int, oracle: int = 4) -> CellResult:
    record = robot(0, before=1, after=after, loss=0.1, passed=True)
    success = {**record.success, "oracle": tuple(i < oracle for i in range(4))}
    settings = Settings(episodes=4, robots=1, methods=("base", "aligned", "oracle"))
    records = (record.model_copy(update={"success": success}),)
    return CellResult(cells_of("both")[0], settings, records)


def test_mean_least_and_most_against_values_by_hand() -> None:
    (found,) = by_cell([[cell_result(2)], [cell_result(4)], [cell_result(3)]])
    assert str(found.spread("aligned")) == "75 % (50-100)"
    assert found.gap_closed is not None
    assert found.gap_closed.mean == pytest.approx((1 / 3 + 1 + 2 / 3) / 3)
    text = seeds_table([found])
    assert "| both/tool_yawed/reach | 25 % (25-25) | 75 % (50-100) |" in text
    assert "0.67 (0.33-1.00)" in text
    assert "0 of 3" in text


def test_no_gap_where_one_oracle_is_no_better_than_base() -> None:
    (found,) = by_cell([[cell_result(2)], [cell_result(2, oracle=1)]])
    assert found.gap_closed is None


def evaluate(tmp_path: Path, *options: str) -> int:
    quick = ["--episodes", "1", "--robots", "1", "--play-seconds", "4", "--steps", "1"]
    places = ["--cache", str(tmp_path / "cache")]
    return main(["evaluate", *quick, *places, *options])


def test_models_from_the_command_line_to_a_document(tmp_path: Path) -> None:
    models = [tmp_path / "a", tmp_path / "b"]
    for seed, model in enumerate(models):
        save_policy(random_policy(seed=seed), model)
    document, file = tmp_path / "doc.md", tmp_path / "found.json"
    begin = "<!-- seeds: `selfalign evaluate --document` writes what follows -->"
    document.write_text(f"{begin}\nold\n<!-- end of seeds -->\n")
    options = ["--models", *map(str, models), "--document", str(document), "--json", str(file)]
    assert evaluate(tmp_path, *options) == 0
    text = document.read_text()
    assert "old" not in text
    assert "| both/tool_yawed/reach |" in text
    (cell,) = json.loads(file.read_text())["cells"]
    assert len({model["model_sha256"] for model in cell["models"]}) == 2
    values = cell["methods"]["aligned"]["values"]
    assert cell["methods"]["aligned"]["mean"] == pytest.approx(sum(values) / 2)


def test_one_model_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        save_policy(random_policy(), tmp_path / name)
    assert evaluate(tmp_path, "--models", str(tmp_path / "a"), str(tmp_path / "b")) == 2
    assert "give models of different training seeds" in capsys.readouterr().err
