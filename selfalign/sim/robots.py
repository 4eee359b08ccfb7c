"""Arms by name."""

from selfalign.errors import SelfAlignError
from selfalign.sim.arm import Arm
from selfalign.sim.procedural import procedural_arm
from selfalign.sim.real_arms import panda, ur5e

__all__ = ["Arm", "UnknownArm", "make_arm"]

_PROCEDURAL = "procedural-"


class UnknownArm(SelfAlignError):
    """There is no arm of that name."""


def make_arm(name: str) -> Arm:
    """Return the arm `"panda"`, `"ur5e"` or `"procedural-<seed>"`.

    Raises:
        UnknownArm: for any other name.
    """
    if name == "panda":
        return panda()
    if name == "ur5e":
        return ur5e()
    seed = name.removeprefix(_PROCEDURAL)
    if name.startswith(_PROCEDURAL) and seed.isascii() and seed.isdecimal():
        return procedural_arm(int(seed))
    raise UnknownArm(f"no arm is called {name!r}; known: panda, ur5e, procedural-<seed>")
