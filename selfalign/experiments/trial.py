"""One robot: play, let every method make its W, act with all of them from the same starts."""

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self, final

from selfalign.align.aligner import Aligner
from selfalign.align.robot_io import RobotIO
from selfalign.experiments.bench import Bench, Candidate, Library
from selfalign.experiments.cells import Cell
from selfalign.experiments.methods import candidate
from selfalign.experiments.online import OnlineW
from selfalign.experiments.records import RobotRecord, Verdict
from selfalign.experiments.robots import draw_robot
from selfalign.experiments.rollouts import Episode, episodes, roll_out
from selfalign.experiments.settings import Settings
from selfalign.experiments.stage import Stage
from selfalign.model.policy import Policy

# Episodes at once. More save nothing: up to here a small policy takes its folded path.
_AT_ONCE: Final = 8


@final
class Trials:
    """Runs robot after robot, keeping simulated scenes and shared W between them. Close it."""

    def __init__(self, policy: Policy, *, at_once: int = _AT_ONCE) -> None:
        self._policy, self._at_once = policy, at_once
        self._stages: dict[tuple[str, str], Stage] = {}
        self._library = Library()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stage in self._stages.values():
            stage.close()

    def run(self, cell: Cell, settings: Settings, index: int) -> RobotRecord:
        """Everything with one robot of a cell.

        Raises:
            UnknownMethod: the settings name a method that does not exist.
            NoDemonstrations: the expert cannot show the task on this robot.
        """
        robot = draw_robot(
            cell,
            settings.split,
            seed=settings.seed,
            index=index,
            episodes=settings.episodes_of(index),
        )
        stage = self._stage(cell)
        stage.set_up(robot)
        bench = Bench(self._policy, stage, cell, robot, index, settings, self._library)
        found = [candidate(bench, name) for name in settings.methods]
        success = self._act(bench, found)
        alignment = bench.alignment if "aligned" in settings.methods else None
        return RobotRecord(
            index=index,
            robot=robot.name,
            description=robot.describe(),
            starts=robot.starts,
            success={name: tuple(success.get(name, ())) for name in settings.methods},
            verdicts={each.label: Verdict.of(each.judgement) for each in found if each.judgement},
            play_s=settings.play_seconds,
            align_s=alignment and alignment.took.wall_s,
            align_cpu_s=alignment and alignment.took.cpu_s,
            took={each.label: each.took for each in found if each.took is not None},
            steps={each.label: each.steps for each in found if each.steps is not None},
        )

    @staticmethod
    def _act(bench: Bench, found: Sequence[Candidate]) -> dict[str, list[bool]]:
        """Successes of each method from the starts of the robot; one batch a policy and look."""
        success: dict[str, list[bool]] = {}
        starts, execute = bench.robot.starts, bench.settings.execute
        for policy, disguise in dict.fromkeys((each.policy, each.disguise) for each in found):
            spec = disguise.spec(bench.stage.env()) if disguise else bench.stage.spec
            io = RobotIO(policy or bench.policy, spec)
            chosen = [e for e in found if e.policy is policy and e.disguise is disguise]
            plain = episodes([(e.label, e.w) for e in chosen if not e.is_online], starts)
            online = [
                _online(bench, io, e, start) for e in chosen if e.is_online for start in starts
            ]
            wanted = [*plain, *online]
            success |= roll_out(io, bench.stage, wanted, execute=execute, disguise=disguise)
        return success

    def _stage(self, cell: Cell) -> Stage:
        key = (cell.arm, cell.task)
        if key not in self._stages:
            # One arm at a time: scenes hold memory and OpenGL.
            for stage in self._stages.values():
                stage.close()
            self._stages.clear()
            size = self._policy.config.vision.image_size
            self._stages[key] = Stage(cell.task, size=self._at_once, image_size=size)
        return self._stages[key]


def _online(bench: Bench, io: RobotIO, found: Candidate, start: int) -> Episode:
    aligner = Aligner(io.policy, bench.settings.alignment)
    online = OnlineW(io, found.w, aligner, steps=bench.settings.online_steps, seed=start)
    return Episode(found.label, found.w, start, online)
