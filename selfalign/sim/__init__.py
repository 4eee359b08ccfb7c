"""Simulated robots: MuJoCo arms, cameras, tasks, scripted experts and play motion.

An optional extra (`pip install "selfalign[sim]"`); importing it without MuJoCo raises
`SimulationUnavailable`. Everything is seeded, and nothing here knows the model or the server.

What is where:

    robots.py         what an arm is; Panda and UR5e from decimated meshes; `make_arm`
    procedural.py     arms with random kinematics from a seed
    scene.py          arm + gripper + table + cubes as one MJCF model
    kinematics.py     forward kinematics and the damped-least-squares inverse
    action_spaces.py  how a robot numbers its actions; one motion relabelled into any of them
    cameras.py        camera poses and projection
    tasks.py          reach, push, lift: instruction, step limit, success
    env.py            `SimEnv`: reset, step, observation, key points
    experts.py        a scripted expert for every task and arm
    play.py           random play that covers the workspace
    recording.py      episodes as arrays, one row per frame
    frames.py         single random frames with key points, for vision pretraining
"""

import importlib.util
import os

from selfalign.errors import SelfAlignError


class SimulationUnavailable(SelfAlignError):
    """The simulation was asked for, but MuJoCo is not installed."""


if importlib.util.find_spec("mujoco") is None:
    raise SimulationUnavailable(
        "selfalign.sim needs MuJoCo, which is not installed; "
        'install it with: pip install "selfalign[sim]"'
    )

# Both must be set before the first import of mujoco: render off screen, and keep the software
# rasteriser on one thread per process (it would otherwise start one per core in every worker).
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "1")
