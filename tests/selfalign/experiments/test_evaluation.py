"""A run is cached robot by robot, and the same again whatever was cached."""

from pathlib import Path

import pytest

from selfalign.experiments.cells import Cell, cells_of
from selfalign.experiments.evaluation import evaluate
from selfalign.experiments.methods import UnknownMethod
from selfalign.experiments.records import RecordFile, RobotRecord
from selfalign.experiments.settings import Settings, digest
from selfalign.model.checkpoint import save_policy
from tests.fakes.experiment import QUICK, small_policy

CELL = cells_of("action", family="tool_yawed")[0]
SETTINGS = QUICK.model_copy(update={"episodes": 2, "methods": ("base", "aligned", "lora")})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_policy(small_policy(), directory)
    return directory


def run(model: Path, cache: Path, settings: Settings = SETTINGS, jobs: int = 1):
    fresh: list[int] = []
    found = evaluate(
        model,
        [(CELL, settings)],
        cache,
        jobs=jobs,
        ended=lambda task, record: fresh.append(task.index),
    )
    return found[0], fresh


def test_an_interrupted_run_goes_on(model: Path, tmp_path: Path) -> None:
    first, fresh = run(model, tmp_path)
    assert [record.index for record in first] == fresh == [0, 1]
    path = RecordFile(tmp_path, digest(model, CELL, SETTINGS)).path
    lines = path.read_text().splitlines()
    # Cut off in the middle of the second line, without a line end.
    path.write_text(f"{lines[0]}\n{lines[1][:50]}")
    second, fresh = run(model, tmp_path)
    assert fresh == [1]
    timeless = {"align_s": None, "align_cpu_s": None, "took": {}}
    assert [r.model_copy(update=timeless) for r in second] == [
        r.model_copy(update=timeless) for r in first
    ]
    third, fresh = run(model, tmp_path)
    assert fresh == []
    assert third == second


@pytest.mark.slow
def test_two_processes_find_what_one_does(model: Path, tmp_path: Path) -> None:
    alone, _ = run(model, tmp_path / "one")
    together, _ = run(model, tmp_path / "two", jobs=2)
    assert [record.success for record in together] == [record.success for record in alone]


def test_records_hold_what_happened(model: Path, tmp_path: Path) -> None:
    found, _ = run(model, tmp_path, SETTINGS.model_copy(update={"robots": 1}))
    (record,) = found
    assert record.robot == "test-0-0"
    assert len(record.starts) == len(record.success["base"]) == len(record.success["aligned"]) == 2
    verdict = record.verdicts["aligned"]
    assert {"finite", "held_out_total"} <= {check.name for check in verdict.checks}
    assert set(verdict.held_out_after) == {"perception", "inverse_dynamics", "dynamics", "total"}
    assert record.align_cpu_s is not None
    assert record.align_cpu_s > 0


def test_an_unknown_method_is_refused_before_anything_runs(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"methods": ("base", "magic")})
    with pytest.raises(UnknownMethod, match=r"'magic'.*steps_<n>"):
        evaluate(tmp_path / "no model", [(CELL, settings)], tmp_path)


def test_episodes_are_spread_evenly() -> None:
    settings = Settings(episodes=10, robots=4)
    assert [settings.episodes_of(i) for i in range(4)] == [3, 3, 2, 2]


def test_whatever_changes_a_result_changes_its_digest(model: Path, tmp_path: Path) -> None:
    other_model = tmp_path / "other"
    save_policy(small_policy(), other_model)
    weights = other_model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    gates = SETTINGS.gates.model_copy(update={"min_improvement": 0.5})
    digests = [
        digest(model, CELL, SETTINGS),
        digest(other_model, CELL, SETTINGS),
        digest(model, CELL, SETTINGS.model_copy(update={"seed": 1})),
        digest(model, CELL, SETTINGS.model_copy(update={"gates": gates})),
        digest(model, CELL, SETTINGS.model_copy(update={"split": "validation"})),
        digest(model, Cell("action", "front", "tool_yawed", "panda", "lift"), SETTINGS),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(model, CELL, SETTINGS) == digests[0]


def test_the_base_serves_where_the_gates_refuse() -> None:
    verdict = {
        "passed": False,
        "checks": (),
        "held_out_before": {},
        "held_out_after": {},
        "train_before": {},
        "train_after": {},
    }
    record = RobotRecord.model_validate(
        {
            "index": 0,
            "robot": "r",
            "description": "",
            "starts": (1, 2),
            "success": {"base": (True, False), "aligned": (False, True), "oracle": (True, True)},
            "verdicts": {"aligned": verdict},
            "play_s": 1.0,
            "align_s": None,
            "align_cpu_s": None,
        }
    )
    assert record.served("aligned") == (True, False)
    assert record.served("oracle") == (True, True)
    passed = {"aligned": {**verdict, "passed": True}}
    assert RobotRecord.model_validate(record.model_dump() | {"verdicts": passed}).served(
        "aligned"
    ) == (False, True)
