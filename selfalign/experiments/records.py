"""What is kept of one robot, as JSON lines: a run that was stopped goes on after the last line."""

import json
from pathlib import Path
from typing import Self, final

from pydantic import BaseModel, ConfigDict, ValidationError

from selfalign.experiments.adapt import Judgement, finite
from selfalign.experiments.peak_memory import Took


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@final
class Check(_Frozen):
    """One question of the gates; None where the value is not finite."""

    name: str
    passed: bool
    value: float | None
    limit: float | None


@final
class Verdict(_Frozen):
    """What the gates said, and the losses on the play kept back and on the play learned from."""

    passed: bool
    checks: tuple[Check, ...]
    held_out_before: dict[str, float | None]
    held_out_after: dict[str, float | None]
    train_before: dict[str, float | None]
    train_after: dict[str, float | None]

    @classmethod
    def of(cls, judgement: Judgement) -> Self:
        """The judgement as plain values."""

        def plain(losses: dict[str, float]) -> dict[str, float | None]:
            return {name: finite(value) for name, value in losses.items()}

        return cls(
            passed=judgement.report.passed,
            checks=tuple(
                Check(
                    name=check.name,
                    passed=bool(check.passed),
                    value=finite(check.value),
                    limit=finite(check.limit),
                )
                for check in judgement.report.checks
            ),
            held_out_before=plain(judgement.held_out_before),
            held_out_after=plain(judgement.held_out_after),
            train_before=plain(judgement.train_before),
            train_after=plain(judgement.train_after),
        )


@final
class RobotRecord(_Frozen):
    """One robot. `success` has a list over `starts` for each method, not gated.

    `align_s` is by the wall, from play to W, `align_cpu_s` the processor time of the same; `took`
    has more of it, for each method that makes something of play. `steps` is how many one chose.
    """

    index: int
    robot: str
    description: str
    starts: tuple[int, ...]
    success: dict[str, tuple[bool, ...]]
    verdicts: dict[str, Verdict]
    play_s: float
    align_s: float | None
    align_cpu_s: float | None
    took: dict[str, Took] = {}
    steps: dict[str, int] = {}

    def served(self, method: str) -> tuple[bool, ...]:
        """Successes with what would serve: the base where the gates refuse a W aligned on play.

        Rivals of alignment are judged too, to know the gates, but act ungated.
        """
        is_gated = method == "aligned" or method.startswith("play_")
        refused = is_gated and method in self.verdicts and not self.verdicts[method].passed
        return self.success["base" if refused else method]


@final
class RecordFile:
    """The robots of one cell under one digest, one line each."""

    def __init__(self, directory: Path, digest: str) -> None:
        self.path = directory / f"{digest[:32]}.jsonl"

    def read(self) -> dict[int, RobotRecord]:
        """What is there, by index. A line cut off by an interruption does not count."""
        if not self.path.exists():
            return {}
        found: dict[int, RobotRecord] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = RobotRecord.model_validate_json(line)
            except ValidationError:
                continue
            found[record.index] = record
        return found

    def append(self, record: RobotRecord) -> None:
        """Add one line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record.model_dump(mode="json"), allow_nan=False)
        with self.path.open("a+b") as file:
            # A line that was cut off must not swallow this one.
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                text = text if file.read(1) == b"\n" else f"\n{text}"
            file.write(f"{text}\n".encode())
