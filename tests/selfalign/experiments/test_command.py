"""`selfalign evaluate` from the command line to its files."""

import json
from pathlib import Path

import pytest

from selfalign.cli import main
from selfalign.experiments.ablate_command import ABLATION, STAGE_2
from selfalign.experiments.cells import cells_of
from selfalign.experiments.command import SEEDS
from selfalign.experiments.curves import points
from selfalign.experiments.document import marks_of
from selfalign.experiments.plans import document_sections
from selfalign.experiments.settings import Settings
from selfalign.experiments.summary import CellResult, as_json
from selfalign.experiments.tables import table
from selfalign.model.checkpoint import save_policy
from tests.fakes.experiment import small_policy
from tests.selfalign.experiments.test_calibration import robot

DOCUMENT = Path(__file__).parents[3] / "docs" / "experiments.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_policy(small_policy(), directory)
    return directory


def evaluate(model: Path, tmp_path: Path, *options: str) -> int:
    quick = ["--episodes", "2", "--robots", "1", "--play-seconds", "4", "--steps", "2"]
    places = ["--model", str(model), "--cache", str(tmp_path / "cache")]
    return main(["evaluate", *quick, *places, *options])


def test_tables_go_to_the_terminal_and_figures_to_a_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / "found.json"
    code = evaluate(model, tmp_path, "--scenario", "both", "--json", str(file))
    assert code == 0
    assert "| both/tool_yawed/reach |" in capsys.readouterr().out
    (cell,) = json.loads(file.read_text())["cells"]
    asked = {"scenario", "task", "base", "aligned", "oracle", "gap_closed", "episodes"}
    assert asked | {"play_s", "align_s"} <= cell.keys()
    assert (cell["episodes"], cell["play_s"], cell["oracle"]) == (2, 4.0, None)
    assert len(cell["records"]) == 1


def test_validation_judges_the_gates(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    assert evaluate(model, tmp_path, "--split", "validation", "--json", str(file)) == 0
    assert "Precision of promotion" in capsys.readouterr().out
    (cell,) = json.loads(file.read_text())["cells"]
    assert sum(cell["gates"]["table"].values()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "base,magic"], "no method is called 'magic'"),
        (["--family", "sideways"], "no action space family is called 'sideways'"),
        (["--document", "DOC", "--section", "none"], "no section is called 'none'"),
        (["--document", "DOC", "--section", "steps"], "expected once each: <!-- steps:"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_is_begun(
    options: list[str],
    words: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = tmp_path / "empty.md"
    document.write_text("nothing\n")
    options = [str(document) if option == "DOC" else option for option in options]
    assert evaluate(model, tmp_path, *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_document_gets_its_tables_between_its_marks(model: Path, tmp_path: Path) -> None:
    document = tmp_path / "doc.md"
    begin = "<!-- steps: `selfalign evaluate --document` writes what follows -->"
    document.write_text(f"before\n{begin}\nold\n<!-- end of steps -->\nafter\n")
    options = ["--document", str(document), "--section", "steps", "--episodes", "1"]
    assert evaluate(model, tmp_path, *options) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end of steps -->\nafter\n")
    assert "old" not in text
    assert "| steps_100 " in text
    assert "](images/experiments_steps.png)" in text
    assert (tmp_path / "images" / "experiments_steps.png").read_bytes()[:4] == b"\x89PNG"


def test_the_document_has_marks_for_every_section() -> None:
    names = [section.name for section in document_sections()]
    for name in (*names, SEEDS):
        assert marks_of(DOCUMENT, name)
    for name in (ABLATION, STAGE_2):
        assert marks_of(DOCUMENT, name, "ablate")


def test_figures_of_a_cell_against_values_by_hand() -> None:
    records = (
        robot(0, before=0, after=4, loss=0.1, passed=True),
        robot(1, before=2, after=1, loss=0.2, passed=True),
        robot(2, before=0, after=4, loss=2.0, passed=False),
    )
    oracle = tuple(
        record.model_copy(update={"success": {**record.success, "oracle": (True,) * 4}})
        for record in records
    )
    settings = Settings(episodes=12, robots=3, methods=("base", "aligned", "oracle"))
    found = as_json(CellResult(cells_of("both")[0], settings, oracle))
    assert (found["base"], found["aligned"], found["oracle"]) == (0.1667, 0.4167, 1.0)
    assert found["gap_closed"] == pytest.approx((5 / 12 - 2 / 12) / (10 / 12), abs=1e-4)
    aligned = found["methods"]["aligned"]
    assert (aligned["better"], aligned["worse"], aligned["ungated"]) == (4, 1, 0.75)
    assert aligned["p_value"] == pytest.approx(2 * (1 + 5) / 2**5)
    assert (found["robots_worse"], found["refused"]) == (1, 1)


def test_what_alignment_is_worth_in_demonstrations() -> None:
    record = robot(0, before=0, after=2, loss=0.1, passed=True)
    won = {"demos_1": 1, "demos_5": 2, "demos_10": 3, "oracle": 4}
    success = {name: tuple(i < n for i in range(4)) for name, n in won.items()}
    record = record.model_copy(update={"success": {**record.success, **success}})

    def worth(*methods: str) -> int | None:
        settings = Settings(episodes=4, robots=1, methods=("base", "aligned", *methods))
        return CellResult(cells_of("both")[0], settings, (record,)).worth_demonstrations

    assert worth("demos_1", "demos_5", "demos_10", "oracle") == 5
    assert worth("demos_10") == 0
    assert worth("oracle") is None


def test_a_curve_rises_with_its_numbers_not_with_their_names() -> None:
    record = robot(0, before=1, after=4, loss=0.1, passed=False)
    won = {"base": (True, False), "steps_100": (True, True), "steps_20": (False, True)}
    record = record.model_copy(update={"success": won, "verdicts": {}})
    settings = Settings(episodes=2, robots=1, methods=tuple(won))
    found = points(CellResult(cells_of("both")[0], settings, (record,)), "steps")
    assert [(number, rate.value) for number, rate in found] == [(20, 0.5), (100, 1.0)]


def test_tables_are_padded_markdown() -> None:
    assert table(["a", "long"], [["first", "1"]]) == (
        "| a     | long |\n| ----- | ---: |\n| first |    1 |"
    )
