"""Where the tool is for given joints, and which joints bring the tool to a given place.

The inverse is damped least squares from the joints measured now, with a null-space pull towards
the arm's posture. It is a pure function of (joints, target), so a motion that was recorded can be
relabelled into any action space and would be executed the same.
"""

from typing import final

import mujoco
import numpy as np

from selfalign.sim.arm import Arm

TOOL_DOWN = np.diag([1.0, -1.0, -1.0])
"""Tool frame in the world when the gripper points down with its yaw held: z down, fingers open
along y."""
TOOL_DOWN.setflags(write=False)

_DAMPING = 0.02
_POSTURE_GAIN = 0.05
_STEP_RAD = 0.3
_TOLERANCE = 1e-4


@final
class Kinematics:
    """Forward and inverse kinematics of one arm. Not thread safe: it owns scratch memory."""

    def __init__(self, arm: Arm, model: mujoco.MjModel) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._tool = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, "tool")
        self._joints = np.array(
            [model.joint(f"joint{i}").qposadr[0] for i in range(len(arm.links))]
        )
        self._dofs = np.array([model.joint(f"joint{i}").dofadr[0] for i in range(len(arm.links))])
        self.low, self.high = np.array(arm.joint_limits).T
        self.posture = np.array(arm.posture)

    def forward(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tool position [3] in metres and tool rotation [3, 3], both in the world."""
        self._data.qpos[self._joints] = joints
        mujoco.mj_kinematics(self._model, self._data)
        return (
            self._data.site_xpos[self._tool].copy(),
            self._data.site_xmat[self._tool].reshape(3, 3).copy(),
        )

    def inverse(
        self, joints: np.ndarray, target: np.ndarray, *, iterations: int = 12
    ) -> np.ndarray:
        """Return joints [n] that put the tool at `target` [3], pointing down with its yaw held.

        Gets as close as joint limits allow; never raises for a target out of reach.
        """
        solution = np.clip(joints, self.low, self.high)
        for _ in range(iterations):
            error, jacobian = self._error(solution, target)
            if np.abs(error).max() < _TOLERANCE:
                break
            square = jacobian @ jacobian.T + _DAMPING**2 * np.eye(6)
            pull = _POSTURE_GAIN * (self.posture - solution)
            step = pull + jacobian.T @ np.linalg.solve(square, error - jacobian @ pull)
            step *= min(1.0, _STEP_RAD / np.abs(step).max())
            solution = np.clip(solution + step, self.low, self.high)
        return solution

    def _error(self, joints: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pose error [6] (metres, radians) and the tool's Jacobian [6, n]."""
        position, rotation = self.forward(joints)
        mujoco.mj_comPos(self._model, self._data)
        jacobian = np.zeros((6, self._model.nv))
        mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._tool)
        error = np.concatenate([target - position, rotation_between(rotation, TOOL_DOWN)])
        return error, jacobian[:, self._dofs]


def rotation_between(current: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the rotation vector [3] in radians, in the world, that turns `current` to `wanted`."""
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, (wanted @ current.T).reshape(-1))
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
