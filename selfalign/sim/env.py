"""A simulated robot behind its robot spec: reset, step, observe.

One control step is `1 / rate_hz` seconds. The servo targets ramp over the first 56 % of it, so
that the arm has almost arrived when the next observation is taken.
"""

from collections.abc import Collection, Mapping
from typing import Self, final

import mujoco
import numpy as np

from selfalign.data.observation import Observation
from selfalign.data.spec import Camera, Dimension, RobotSpec
from selfalign.errors import SelfAlignError
from selfalign.sim.action_spaces import ActionSpace, ToolDelta, held, tool_command
from selfalign.sim.arm import Arm
from selfalign.sim.cameras import CameraPose, project
from selfalign.sim.kinematics import Kinematics
from selfalign.sim.motion import Command, Measured
from selfalign.sim.rendering import OffscreenRenderer
from selfalign.sim.scene import COLOURS, CUBE_EDGE_M, OPENING_MAX_M, TIMESTEP_S, build_model
from selfalign.sim.tasks import Task, get_task, is_done

KEYPOINTS = (
    "tool_tip",
    "left_finger_tip",
    "right_finger_tip",
    "flange",
    "elbow",
    "base_top",
    "red_cube",
    "green_cube",
    "blue_cube",
)
CUBE_LOW = np.array([0.38, -0.21])
CUBE_HIGH = np.array([0.57, 0.21])
CUBE_SPACING_M = 0.10
CUBE_YAW_RAD = 0.25
_START_LOW = np.array([0.36, -0.2, 0.14])
_START_HIGH = np.array([0.6, 0.2, 0.3])
_RAMP_SHARE = 0.56
_FINGER_RAMP_SHARE = 1.0


class InvalidAction(SelfAlignError):
    """An action has the wrong shape or is not finite."""


class UnknownScenePart(SelfAlignError):
    """There is no camera, cube colour or reset option of that name."""


@final
class SimEnv:
    """One robot in one scene, in the manner of a gymnasium environment. Not thread safe.

    Close it, or use it in a `with` block: it owns an off-screen renderer.
    """

    def __init__(
        self,
        arm: Arm,
        action_space: ActionSpace | None = None,
        cameras: Mapping[str, CameraPose] | None = None,
        *,
        task: str = "reach",
        image_size: int = 96,
        rate_hz: float = 10.0,
        seed: int = 0,
    ) -> None:
        self.arm = arm
        self.action_space: ActionSpace = action_space or ToolDelta()
        self.cameras: dict[str, CameraPose] = dict(cameras or {"front": CameraPose()})
        self.task: Task = get_task(task)
        self.colour: str = COLOURS[0]
        self.image_size = image_size
        self.rate_hz = rate_hz
        self.model = build_model(arm, tuple(self.cameras))
        self.data = mujoco.MjData(self.model)
        self.kinematics = Kinematics(arm, self.model)
        self.steps = 0
        self._rng = np.random.default_rng(seed)
        self._substeps = round(1.0 / rate_hz / TIMESTEP_S)
        self._joints = [self._address(f"joint{i}") for i in range(arm.joint_count)]
        self._fingers = [self._address(f"{side}_finger") for side in ("left", "right")]
        self._cubes = {name: self._address(name) for name in COLOURS}
        self._cube_start = np.zeros(3)
        self._renderer = OffscreenRenderer(self.model, image_size)
        self.set_cameras(self.cameras)
        self.reset()

    def _address(self, joint: str) -> int:
        return int(self.model.joint(joint).qposadr[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the renderer. May be called twice."""
        self._renderer.close()

    @property
    def spec(self) -> RobotSpec:
        """The robot spec that this arm, these cameras and this action space declare."""
        size = self.image_size
        state = [
            Dimension(name=f"joint_{i + 1}", unit="rad", low=low, high=high)
            for i, (low, high) in enumerate(self.arm.joint_limits)
        ]
        state.append(Dimension(name="gripper_opening", unit="m", low=0.0, high=OPENING_MAX_M))
        actions = self.action_space.dims(self.arm)
        targets = tuple(dim.name for dim in actions if dim.step is not None)
        return RobotSpec(
            name=f"sim-{self.arm.name}",
            rate_hz=self.rate_hz,
            cameras=tuple(Camera(name=name, height=size, width=size) for name in self.cameras),
            state=tuple(state),
            action=tuple(
                Dimension(name=dim.name, unit=dim.unit, low=dim.low, high=dim.high)
                for dim in actions
            ),
            max_step=tuple(dim.step for dim in actions) if targets else None,
            targets=targets,
        )

    @property
    def instruction(self) -> str:
        """What the robot is asked to do now."""
        return self.task.instruction(self.colour)

    def set_cameras(self, cameras: Mapping[str, CameraPose]) -> None:
        """Move cameras.

        Raises:
            UnknownScenePart: a name is not among those the environment was made with.
        """
        for name, pose in cameras.items():
            _check_known("camera", name, self.cameras)
            self.cameras[name] = pose
            camera = self.model.camera(name)
            quaternion = np.zeros(4)
            mujoco.mju_mat2Quat(quaternion, pose.axes.reshape(-1))
            camera.pos[:], camera.quat[:] = pose.position, quaternion
            camera.fovy[:] = pose.fovy_deg
        mujoco.mj_camlight(self.model, self.data)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, str] | None = None
    ) -> tuple[Observation, dict[str, object]]:
        """Start an episode: cubes, their named colour and the arm at random, from `seed` if given.

        Args:
            seed: restarts the random stream; None goes on with it.
            options: `"task"` changes the task for good, `"colour"` fixes the cube of this episode.

        Raises:
            UnknownTask: no such task.
            UnknownScenePart: no such option or colour.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        wanted = dict(options or {})
        for name in wanted:
            _check_known("reset option", name, ("task", "colour"))
        self.task = get_task(wanted.get("task", self.task.name))
        drawn = COLOURS[int(self._rng.integers(len(COLOURS)))]
        self.colour = wanted.get("colour", drawn)
        _check_known("cube colour", self.colour, COLOURS)
        mujoco.mj_resetData(self.model, self.data)
        self.place_cubes(self._rng)
        start = self._rng.uniform(_START_LOW, _START_HIGH)
        joints = self.kinematics.inverse(self.kinematics.posture, start, iterations=60)
        self.place_arm(joints, float(self._rng.uniform(0.03, OPENING_MAX_M)))
        self.steps = 0
        self._cube_start = self.cube(self.colour)
        return self.observe(), {"success": False}

    def place_arm(self, joints: np.ndarray, opening: float) -> None:
        """Put the arm at `joints` [n] rad and the fingers at `opening` [m], at rest."""
        self.data.qpos[self._joints] = joints
        self.data.qpos[self._fingers] = opening / 2
        self.data.ctrl[:-2] = joints
        self.data.ctrl[-2:] = opening / 2
        self.data.qvel[:] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def place_cubes(self, rng: np.random.Generator) -> None:
        """Put the cubes at random places on the table, apart from one another."""
        placed: list[np.ndarray] = []
        for address in self._cubes.values():
            while True:
                spot = rng.uniform(CUBE_LOW, CUBE_HIGH)
                if all(np.linalg.norm(spot - other) >= CUBE_SPACING_M for other in placed):
                    break
            placed.append(spot)
            half_yaw = rng.uniform(-CUBE_YAW_RAD, CUBE_YAW_RAD) / 2
            pose = (*spot, CUBE_EDGE_M / 2, np.cos(half_yaw), 0.0, 0.0, np.sin(half_yaw))
            self.data.qpos[address : address + 7] = pose

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, object]]:
        """Execute one raw action [A] of the declared action space.

        Returns:
            Observation, reward (1 on success, else 0), terminated, truncated, and
            `{"success": bool, "command": Command}`.

        Raises:
            InvalidAction: wrong shape, or not finite.
        """
        width = len(self.action_space.dims(self.arm))
        action = np.asarray(action, np.float64)
        if action.shape != (width,) or not np.isfinite(action).all():
            raise InvalidAction(
                f"action {action.tolist()} of shape {list(action.shape)}: "
                f"expected [{width}] finite numbers"
            )
        command = self.action_space.decode(action, self.measure(), self.kinematics)
        success = self.execute(command)
        truncated = self.steps >= self.task.step_limit
        info: dict[str, object] = {"success": success, "command": command}
        return self.observe(), float(success), success, truncated, info

    def measure(self) -> Measured:
        """What the arm measures of itself now."""
        joints = self.data.qpos[self._joints].copy()
        tool, rotation = self.kinematics.forward(joints)
        opening = np.asarray(np.clip(self.data.qpos[self._fingers].sum(), 0.0, OPENING_MAX_M))
        return Measured(joints, opening, tool, rotation)

    def command(self, tool_target: np.ndarray, opening: float) -> Command:
        """Return the command that moves the tool towards `tool_target` [3] in one step."""
        return tool_command(self.measure(), tool_target, opening, self.kinematics)

    def held_action(self) -> np.ndarray:
        """The raw action [A] that keeps the robot where it is measured."""
        return self.action_space.encode(held(self.measure()))

    def execute(self, command: Command) -> bool:
        """Run one control step and return whether the task is done."""
        fingers = np.full(2, command.opening_target / 2 - (command.opening_target < 0.005) * 0.01)
        target = np.concatenate([command.joint_target, fingers])
        start = self.data.ctrl.copy()
        ramp = np.append(np.full(self.arm.joint_count, _RAMP_SHARE), [_FINGER_RAMP_SHARE] * 2)
        for substep in range(self._substeps):
            share = np.minimum(1.0, (substep + 1) / self._substeps / ramp)
            self.data.ctrl[:] = start + share * (target - start)
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_kinematics(self.model, self.data)
        self.steps += 1
        return self.is_success()

    def is_success(self) -> bool:
        """Whether the task is done now."""
        tool = self.kinematics.forward(self.data.qpos[self._joints])[0]
        cube = self.cube(self.colour)
        return is_done(self.task, tool=tool, cube=cube, cube_start=self._cube_start)

    def cube(self, colour: str) -> np.ndarray:
        """Centre of a cube [3] in the world [m]."""
        address = self._cubes[colour]
        return self.data.qpos[address : address + 3].copy()

    def observe(self) -> Observation:
        """What the robot senses now: one image a camera, joints and opening, the instruction."""
        measured = self.measure()
        state = np.append(measured.joints, measured.opening).astype(np.float32)
        return Observation(
            images={name: self.render(name) for name in self.cameras},
            state=state,
            instruction=self.instruction,
        )

    def render(self, camera: str) -> np.ndarray:
        """Return the image [image_size, image_size, 3] uint8 of one camera."""
        return self._renderer.render(self.data, camera)

    def keypoints(self) -> np.ndarray:
        """Return the world points [K, 3] in metres named by `KEYPOINTS`."""
        sites, bodies = self.data.site, self.data.body
        return np.stack(
            [
                sites("tool").xpos,
                sites("left_tip").xpos,
                sites("right_tip").xpos,
                bodies("flange").xpos,
                bodies(f"link{self.arm.elbow}").xpos,
                bodies("link0").xpos,
                *(self.cube(colour) for colour in COLOURS),
            ]
        )

    def project_keypoints(self, camera: str) -> np.ndarray:
        """Return the key points [K, 3] as (u, v, depth) of one camera; see `cameras.project`."""
        return project(self.cameras[camera], self.keypoints())


def _check_known(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise UnknownScenePart(f"no {kind} is called {name!r}; known: {', '.join(known)}")
