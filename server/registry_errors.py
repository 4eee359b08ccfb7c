"""Why a version of W cannot be served."""

from __future__ import annotations

from selfalign.errors import SelfAlignError


class UnknownRobot(SelfAlignError):
    """No robot of this name is registered."""

    code = "unknown-robot"
    status = 404

    def __init__(self, robot: str, known: list[str]) -> None:
        super().__init__(
            f"robot {robot!r} is not known; known robots: {', '.join(known) or 'none'}"
        )
        self.robot = robot


class UnknownVersion(SelfAlignError):
    """The robot has no W of this version."""

    code = "unknown-version"
    status = 404

    def __init__(self, robot: str, version: int) -> None:
        super().__init__(
            f"robot {robot!r} has no W of version {version}; GET /w?robot={robot} lists them"
        )
        self.version = version


class WNotResident(SelfAlignError):
    """A pinned version exists on disk but is not in memory."""

    code = "w-not-resident"
    status = 409

    def __init__(self, robot: str, version: int, resident: list[int]) -> None:
        super().__init__(
            f"version {version} of robot {robot!r} is not resident (resident: {resident}); "
            "activate it, or pin a resident version"
        )
        self.version = version


class WrongBase(SelfAlignError):
    """A version belongs to another frozen model."""

    code = "wrong-base"
    status = 409


class WrongSpec(SelfAlignError):
    """A version was aligned for another spec than its robot has now.

    `extra` are further members of the problem: the digests of the two.
    """

    code = "wrong-spec"
    status = 409

    def __init__(self, message: str, *, aligned_for: str, present: str) -> None:
        super().__init__(message)
        self.extra = {"spec_sha256": aligned_for, "robot_spec_sha256": present}


class VersionRejected(SelfAlignError):
    """The gates rejected this version."""

    code = "version-rejected"
    status = 409


class NothingToRollBack(SelfAlignError):
    """The robot has had one active version only."""

    code = "nothing-to-roll-back"
    status = 409
