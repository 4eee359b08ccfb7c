"""What is unseen in each scenario: a cell is one camera placement, action space family and arm."""

from dataclasses import dataclass
from typing import Final, Literal, TypeVar, final

import numpy as np

from selfalign.errors import SelfAlignError
from selfalign.sim.action_spaces import FAMILIES
from selfalign.sim.cameras import (
    HELD_OUT_AZIMUTH_DEG,
    CameraPose,
    CameraSector,
    random_camera,
)
from selfalign.sim.tasks import get_task

Scenario = Literal["camera", "action", "both", "robot", "all"]
_Name = TypeVar("_Name", bound=str)
Placement = Literal["front", "unseen", "held_out", "edge", "outside"]

SCENARIOS: Final[tuple[Scenario, ...]] = ("camera", "action", "both", "robot", "all")
PLACEMENTS: Final[tuple[Placement, ...]] = ("unseen", "held_out", "edge", "outside")

_TRAINED: Final = CameraSector()
_BEYOND_EDGE_DEG: Final = (30.0, 60.0)
_OUTSIDE: Final = (
    CameraSector(elevation_deg=(10.0, 20.0)),
    CameraSector(elevation_deg=(60.0, 72.0)),
    CameraSector(distance_m=(0.7, 0.82)),
    CameraSector(distance_m=(1.4, 1.6)),
    CameraSector(fovy_deg=(30.0, 36.0)),
    CameraSector(fovy_deg=(54.0, 60.0)),
)
"""Below and above the trained ranges, with the whole workspace in view."""


@final
class UnknownCell(SelfAlignError):
    """There is no such scenario, or nothing like that in it."""


@final
@dataclass(frozen=True)
class Cell:
    """One entry of the tables. Everything that is not unseen is as in training."""

    scenario: Scenario
    placement: Placement
    family: str
    arm: str
    task: str

    @property
    def name(self) -> str:
        """Unique and readable, for example `action/tool_yawed/reach`."""
        return f"{self.scenario}/{self.variant}/{self.task}"

    @property
    def variant(self) -> str:
        """What tells it from the other cells of its scenario."""
        if self.scenario == "camera":
            return self.placement
        if self.scenario == "robot" and self.family == "tool_canonical":
            return self.arm
        return self.family


def cells_of(scenario: Scenario, *, task: str = "reach", family: str | None = None) -> list[Cell]:
    """The cells of a scenario.

    Args:
        scenario: What is unseen: the camera, the action space, both, the arm, or all three.
        task: What the robot is asked to do.
        family: Of the action spaces, or the placement of the cameras where nothing but the camera
            is unseen; None takes all of them, or the default one where several things are unseen.

    Raises:
        UnknownCell: nothing of that name is in the scenario.
        UnknownTask: no such task.
    """
    get_task(task)
    if scenario == "camera":
        # Training does not leave the held-out sector out yet: it is measured when asked for.
        default: tuple[Placement, ...] = ("unseen", "edge", "outside")
        chosen = _choose("camera placement", family, PLACEMENTS, default)
        return [Cell(scenario, placement, "tool_canonical", "panda", task) for placement in chosen]
    others = tuple(name for name in FAMILIES if name != "tool_canonical")
    if scenario == "action":
        families = _choose("action space family", family, FAMILIES, others)
        return [Cell(scenario, "front", name, "panda", task) for name in families]
    if scenario == "robot":
        families = _choose("action space family", family, FAMILIES, ("tool_canonical",))
        return [Cell(scenario, "front", name, "ur5e", task) for name in families]
    families = _choose("action space family", family, FAMILIES, ("tool_yawed",))
    arm = "panda" if scenario == "both" else "ur5e"
    return [Cell(scenario, "unseen", name, arm, task) for name in families]


def draw_camera(rng: np.random.Generator, placement: Placement) -> CameraPose:
    """Draw a camera of a placement.

    `front` is the plain camera before the robot, `unseen` anywhere in the trained ranges,
    `held_out` in the sector that training can leave out, `edge` 30 to 60 degrees beyond the trained
    azimuths, `outside` with elevation, distance or field of view outside the trained ones.
    """
    if placement == "front":
        return CameraPose()
    if placement == "unseen":
        return random_camera(rng, _TRAINED)
    if placement == "held_out":
        return random_camera(rng, CameraSector(azimuth_deg=HELD_OUT_AZIMUTH_DEG))
    if placement == "edge":
        low, high = (_TRAINED.azimuth_deg[1] + beyond for beyond in _BEYOND_EDGE_DEG)
        ends = (low, high) if rng.random() < 0.5 else (-high, -low)
        return random_camera(rng, CameraSector(azimuth_deg=ends))
    return random_camera(rng, _OUTSIDE[int(rng.integers(len(_OUTSIDE)))])


def _choose(
    what: str, name: str | None, known: tuple[_Name, ...], default: tuple[_Name, ...]
) -> tuple[_Name, ...]:
    if name is None:
        return default
    found = tuple(item for item in known if item == name)
    if not found:
        raise UnknownCell(f"no {what} is called {name!r}; known: {', '.join(known)}")
    return found
