"""Simulated robots: MuJoCo arms, cameras, tasks, scripted experts and play motion.

An optional extra (`pip install "selfalign[sim]"`); importing it without MuJoCo raises
`SimulationUnavailable`. Everything is seeded, and nothing here knows the model or the server.

    with SimEnv(make_arm("panda"), task="lift", seed=1) as env:
        observation, _ = env.reset(seed=7, options={"colour": "red"})
        action = env.action_space.encode(scripted_expert(env))
        observation, reward, terminated, truncated, info = env.step(action)

World frame: base at the origin on the table top, x forward, y to the robot's left, z up; metres.
The gripper always points down with its yaw held, except where a joint action turns it.

What is where:

    robots.py         `make_arm`: arms by name
    arm.py            what an arm is
    real_arms.py      Panda and UR5e from decimated meshes (licences: assets/LICENSES.md)
    procedural.py     arms with random kinematics from a seed
    scene.py          arm + gripper + table + cubes as one MJCF model
    rendering.py      off-screen images
    kinematics.py     forward kinematics and the damped-least-squares inverse
    motion.py         what an arm measures and what it is commanded
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
import sys

from selfalign.errors import SelfAlignError


class SimulationUnavailable(SelfAlignError):
    """The simulation was asked for, but MuJoCo or off-screen OpenGL is missing."""


if importlib.util.find_spec("mujoco") is None:
    raise SimulationUnavailable(
        "selfalign.sim needs MuJoCo, which is not installed; "
        'install it with: pip install "selfalign[sim]"'
    )

# Both must be set before the first import of mujoco: render off screen, and keep the software
# rasteriser on one thread per process (it would otherwise start one per core in every worker).
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "1")
