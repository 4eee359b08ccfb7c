"""Other embodiments out of one: the same motion, its actions numbered as another robot would.

Shape key: `...` any leading shape, A numbers of the robot, n joints, P padded width of the model.
"""

from typing import Literal, Self, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from selfalign.align.action_maps import (
    ActionMap,
    AddedNumbers,
    ArmKinematics,
    Backwards,
    CartesianToJoint,
    Chained,
    DeltaToAbsolute,
    Dimensions,
    FrameChange,
    Reordered,
)
from selfalign.align.augment_appearance import AugmentationError
from selfalign.data.kinematic_chain import EXACT, ChainKinematics, KinematicChain
from selfalign.data.normalisation import Normaliser
from selfalign.data.rotations import quaternion_matrix
from selfalign.data.spec import Dimension, RobotSpec

Floats = NDArray[np.float64]
Numbering = Literal["tool_delta", "tool_absolute", "joint_delta", "joint_absolute"]
NUMBERINGS: tuple[Numbering, ...] = (
    "tool_delta",
    "tool_absolute",
    "joint_delta",
    "joint_absolute",
)
Box = tuple[float, float, float]


class EmbodimentAugmentationConfig(BaseModel):
    """What is drawn, and the limits of numbers that the robot does not declare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool_step_m: float = Field(0.04, gt=0, description="Limit of a tool displacement, each axis")
    joint_step_rad: float = Field(0.15, gt=0, description="Limit of a joint displacement")
    workspace_low: Box = Field((0.3, -0.27, 0.012), description="Where tool positions lie [m]")
    workspace_high: Box = (0.66, 0.27, 0.32)
    base_shift_m: float = Field(0.5, ge=0, description="Furthest that world and base lie apart")
    camera_share: float = Field(0.5, ge=0, le=1, description="Camera frames among frames drawn")
    mirror_share: float = Field(0.5, ge=0, le=1, description="Mirrored frames among frames drawn")
    added_share: float = Field(0.25, ge=0, le=1, description="Negatives with a number more")
    removed_share: float = Field(0.25, ge=0, le=1, description="Negatives with a number less")


@final
class EmbodimentAugmentation:
    """Draws maps from a robot's actions to those of robots that number the same motion otherwise.

    The robot's actions begin with its `numbering`: three numbers of the tool or n of the joints;
    what follows, such as a gripper, is carried along.
    """

    def __init__(
        self,
        chain: KinematicChain,
        numbering: Numbering,
        dimensions: Dimensions,
        config: EmbodimentAugmentationConfig | None = None,
    ) -> None:
        """Take what a robot spec declares: its chain, and the dimensions of its action.

        Raises:
            AugmentationError: fewer dimensions than the numbering needs.
        """
        self.config = config or EmbodimentAugmentationConfig()
        self.kinematics: ArmKinematics = ChainKinematics(chain, EXACT)
        self.numbering = numbering
        self.dimensions = dimensions
        config = self.config
        box = zip("xyz", config.workspace_low, config.workspace_high, strict=True)
        reach = config.joint_step_rad
        self._blocks: dict[Numbering, Dimensions] = {
            "tool_delta": tuple(
                _dimension(f"delta_{axis}", "m", -config.tool_step_m, config.tool_step_m)
                for axis in "xyz"
            ),
            "tool_absolute": tuple(_dimension(f"tool_{a}", "m", low, high) for a, low, high in box),
            "joint_delta": tuple(
                _dimension(f"{joint.name}_delta", "rad", -reach, reach) for joint in chain.joints
            ),
            "joint_absolute": tuple(
                _dimension(joint.name, "rad", joint.low, joint.high) for joint in chain.joints
            ),
        }
        if len(dimensions) < len(self._blocks[numbering]):
            raise AugmentationError(
                f"{numbering} needs {len(self._blocks[numbering])} numbers, the robot's action has "
                f"{len(dimensions)}"
            )

    @classmethod
    def of(
        cls,
        spec: RobotSpec,
        numbering: Numbering,
        config: EmbodimentAugmentationConfig | None = None,
    ) -> Self:
        """The augmentation of a robot by its spec.

        Raises:
            AugmentationError: the spec declares no kinematics, or too few actions.
        """
        if spec.kinematics is None:
            raise AugmentationError(
                f"robot {spec.name!r} declares no kinematics; add the chain to its spec"
            )
        return cls(spec.kinematics, numbering, spec.action, config)

    def convert(self, wanted: Numbering) -> ActionMap:
        """The map from the robot's numbering to another, by way of positions."""
        tool_now, tool_then = (name.startswith("tool") for name in (self.numbering, wanted))
        maps: list[ActionMap] = []
        if self.numbering.endswith("delta"):
            maps.append(self._to_absolute(tool=tool_now))
        to_joints = CartesianToJoint(self.kinematics, self._blocks["joint_absolute"])
        if tool_now and not tool_then:
            maps.append(to_joints)
        if tool_then and not tool_now:
            maps.append(Backwards(to_joints, self._followed_by_rest("tool_absolute")))
        if wanted.endswith("delta"):
            maps.append(
                Backwards(self._to_absolute(tool=tool_then), self._followed_by_rest(wanted))
            )
        return Chained(tuple(maps))

    def draw(self, count: int, rng: np.random.Generator) -> list[ActionMap]:
        """Draw `count` maps; almost surely none is the identity, and no two are alike."""
        return [self._draw(rng) for _ in range(count)]

    def _draw(self, rng: np.random.Generator) -> ActionMap:
        wanted = NUMBERINGS[rng.integers(len(NUMBERINGS))]
        maps = [self.convert(wanted), self._renumbering(wanted, rng)]
        number = len(self._blocks[wanted])
        chance = rng.random()
        if chance < self.config.added_share:
            maps.append(_added(number, rng))
        elif chance < self.config.added_share + self.config.removed_share:
            names = Chained(tuple(maps)).rename(self.dimensions)
            maps.append(_removed(names, int(rng.integers(number))))
        return Chained(tuple(maps))

    def _renumbering(self, wanted: Numbering, rng: np.random.Generator) -> ActionMap:
        """Another frame for tool numbers, another order and other signs for joints."""
        if wanted.startswith("tool"):
            shift = 0.0 if wanted.endswith("delta") else self.config.base_shift_m
            offset = rng.uniform(-shift, shift, 3)
            return FrameChange(self._frame(rng), offset)
        count = len(self._blocks[wanted])
        order = tuple(int(i) for i in rng.permutation(count))
        return Reordered(order, tuple(int(s) for s in rng.choice((-1, 1), count)))

    def _frame(self, rng: np.random.Generator) -> Floats:
        """A camera's frame (turned in any way) or a world's (about the vertical), or a mirrored."""
        if rng.random() < self.config.camera_share:
            turn = quaternion_matrix(rng.standard_normal(4))
        else:
            angle = rng.uniform(0.1, 2 * np.pi - 0.1)
            turn = quaternion_matrix([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])
        mirrored = rng.random() < self.config.mirror_share
        return turn @ np.diag([1.0, -1.0 if mirrored else 1.0, 1.0])

    def _to_absolute(self, *, tool: bool) -> DeltaToAbsolute:
        positions = self._blocks["tool_absolute" if tool else "joint_absolute"]
        return DeltaToAbsolute("tool" if tool else "joints", self.kinematics, positions)

    def _followed_by_rest(self, numbering: Numbering) -> Dimensions:
        """The dimensions of the robot as if it had another numbering."""
        rest = self.dimensions[len(self._blocks[self.numbering]) :]
        return (*self._blocks[numbering], *rest)


def normalised(
    map_: ActionMap, before: Dimensions, actions: Floats, joints: Floats, width: int
) -> tuple[NDArray[np.float32], Dimensions]:
    """Mapped actions [..., P] with their new limits at -1 and 1, and what the numbers are."""
    after = map_.rename(before)
    limits = Normaliser([d.low for d in after], [d.high for d in after], width)
    return limits.normalise(map_.apply(actions, joints)), after


def _added(number: int, rng: np.random.Generator) -> AddedNumbers:
    """A joint more, that play never moved."""
    place = int(rng.integers(number + 1))
    held = float(rng.uniform(-1.0, 1.0))
    return AddedNumbers((place,), (_dimension("added", "rad", -np.pi, np.pi),), (held,))


def _removed(names: Dimensions, place: int) -> Backwards:
    """A number less; undone as if it had been held in the middle of its limits."""
    gone = names[place]
    added = AddedNumbers((place,), (gone,), ((gone.low + gone.high) / 2,))
    return Backwards(added, (*names[:place], *names[place + 1 :]))


def _dimension(name: str, unit: str, low: float, high: float) -> Dimension:
    return Dimension(name=name, unit=unit, low=low, high=high)
