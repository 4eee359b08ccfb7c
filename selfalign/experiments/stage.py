"""Simulated copies of one arm, reused robot after robot: building a scene costs more than acting.

A copy is reset from a seed before each use, so that nothing of the robot before is left.
"""

from types import TracebackType
from typing import Final, Self, final

from selfalign.data.spec import RobotSpec
from selfalign.experiments.robots import UnseenRobot
from selfalign.sim.env import SimEnv

CAMERA: Final = "front"


@final
class Stage:
    """Environments of the robot that is set up. Not thread safe; close it.

    Args:
        task: What their instructions ask for.
        size: Environments at most: episodes that run at once.
        image_size: Side of their images [pixel].
    """

    def __init__(self, task: str, *, size: int, image_size: int) -> None:
        self.size = size
        self._task, self._image_size = task, image_size
        self._robot: UnseenRobot | None = None
        self._envs: list[SimEnv] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free all environments."""
        for env in self._envs:
            env.close()
        self._envs = []

    def set_up(self, robot: UnseenRobot) -> None:
        """Turn every environment into this robot."""
        if self._robot is not None and self._robot.arm.name != robot.arm.name:
            self.close()
        self._robot = robot
        for env in self._envs:
            self._dress(env, robot)

    def env(self, number: int = 0) -> SimEnv:
        """Environment of that number below `size`; made when first asked for."""
        assert self._robot is not None, "set_up comes first"
        assert number < self.size
        while len(self._envs) <= number:
            self._envs.append(
                SimEnv(
                    self._robot.arm,
                    self._robot.space,
                    {CAMERA: self._robot.camera},
                    task=self._task,
                    image_size=self._image_size,
                )
            )
        return self._envs[number]

    @property
    def spec(self) -> RobotSpec:
        """What the robot declares to a server."""
        return self.env().spec

    @staticmethod
    def _dress(env: SimEnv, robot: UnseenRobot) -> None:
        env.action_space = robot.space
        env.set_cameras({CAMERA: robot.camera})
