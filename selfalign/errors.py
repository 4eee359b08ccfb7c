"""The errors of this package; every one derives from `SelfAlignError`.

    SelfAlignError
      SpecError            a robot spec is wrong, or a policy cannot take the robot it describes
      ObservationError     an observation does not match its robot spec
      SnapshotError        a snapshot of W is wrong (one subclass for each way, in align.snapshot)
      StoreError           recorded play cannot be written or read (subclasses in data.play_store)
      NoPlayData           there is not enough play to align on

Messages say what was wrong, the value, what was expected and, where it helps, what to do.
"""


class SelfAlignError(Exception):
    """Base of all errors that this package raises on purpose."""


class SpecError(SelfAlignError):
    """A robot spec is wrong, or a policy cannot take the robot it describes."""


class ObservationError(SelfAlignError):
    """An observation does not match its robot spec.

    Attributes:
        field: the wrong field, for example `images.front` or `state[3] (joint_4)`.
        got: what it held.
        expected: what the spec asks for.
    """

    def __init__(self, *, field: str, got: object, expected: str) -> None:
        """Name the wrong `field`, what it held and what was expected."""
        super().__init__(f"observation {field}: expected {expected}, got {got}")
        self.field, self.got, self.expected = field, got, expected


class SnapshotError(SelfAlignError):
    """A snapshot of W is wrong and must not be used."""


class StoreError(SelfAlignError):
    """Recorded play cannot be written or read."""


class NoPlayData(SelfAlignError):
    """There is not enough recorded play to align on."""
