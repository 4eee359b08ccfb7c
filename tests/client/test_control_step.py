"""No command is farther from the last one than `max_step`, also where a chunk is late."""

import numpy as np
import pytest

from client.control import ControlLoop
from tests.client.test_control import FakePolicy, FakeRobot
from tests.fakes.clock import FakeClock
from tests.fakes.executor import ManualExecutor


class Rig:
    """A loop at 10 Hz whose policy answers one period late: of steps 0, 1, 2, 3 step 1 is due."""

    def __init__(self, max_step: list[float | None] | None, held: float | None) -> None:
        self.clock, self.executor = FakeClock(), ManualExecutor()
        self.robot, self.policy = FakeRobot(), FakePolicy()
        self.loop = ControlLoop(
            self.robot,
            self.policy,
            rate_hz=10,
            held=None if held is None else np.array([held], np.float32),
            max_step=max_step,
            clock=self.clock,
            executor=self.executor,
        )

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.loop.tick()
            if self.executor.waiting:
                self.executor.run_next()
            self.clock.advance(0.1)


@pytest.mark.parametrize(
    ("max_step", "held", "executed"),
    [
        (None, -1.0, [1, 1, 1, 1, 1]),
        ([None], -1.0, [1, 1, 1, 1, 1]),
        ([1.0], -1.0, [0, 1, 1, 1, 1]),
        ([0.5], -1.0, [-0.5, 0, 0.5, 1, 1]),
        ([0.5], 3.0, [2.5, 2, 1.5, 1, 1]),
        # Nobody knows the command before the first one.
        ([0.5], None, [1, 1, 1, 1, 1]),
    ],
)
def test_a_command_is_at_most_a_step_from_the_last_one(
    max_step: list[float | None] | None, held: float | None, executed: list[float]
) -> None:
    rig = Rig(max_step, held)
    rig.ticks(6)
    assert rig.robot.log == ["hold", *executed]


def test_the_policy_goes_on_from_what_was_executed() -> None:
    rig = Rig([0.5], -1.0)
    rig.ticks(4)
    assert rig.policy.previous[0] == -1.0
    assert rig.policy.previous[-1] == rig.robot.log[-2] == 0.0
