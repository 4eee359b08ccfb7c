"""Off-screen images of a scene, without shadows, reflections or multisampling (they cost by the
pixel on a CPU).
"""

from typing import final

import mujoco
import numpy as np

from selfalign.sim import SimulationUnavailable

_OFF = (
    mujoco.mjtRndFlag.mjRND_SHADOW,
    mujoco.mjtRndFlag.mjRND_REFLECTION,
    mujoco.mjtRndFlag.mjRND_SKYBOX,
)


@final
class OffscreenRenderer:
    """Renders square images. Opens OpenGL at the first image; use it from one thread only."""

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        self._model = model
        self._size = size
        self._renderer: mujoco.Renderer | None = None

    def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Return the image [size, size, 3] uint8 of a camera.

        Raises:
            SimulationUnavailable: no off-screen OpenGL on this machine.
        """
        if self._renderer is None:
            self._renderer = self._open()
        mujoco.mj_camlight(self._model, data)
        self._renderer.update_scene(data, camera)
        return np.asarray(self._renderer.render())

    def close(self) -> None:
        """Free OpenGL. May be called twice; the next image opens it again."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _open(self) -> mujoco.Renderer:
        try:
            renderer = mujoco.Renderer(self._model, self._size, self._size)
        except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
            raise SimulationUnavailable(
                f"cannot render off screen: {error}. On Debian: apt-get install libegl1 "
                "libegl-mesa0 libgl1-mesa-dri. Import selfalign.sim before mujoco, or set "
                "MUJOCO_GL=egl (or osmesa) yourself."
            ) from error
        for flag in _OFF:
            renderer.scene.flags[flag] = 0
        return renderer
