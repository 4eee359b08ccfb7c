"""The errors of selfalign: one tree, so that a caller can catch all of them in one place."""


class SelfAlignError(Exception):
    """Base of every error that selfalign raises on purpose. The message is fit for an operator."""


class SpecError(SelfAlignError):
    """A robot spec is wrong in itself, or asks for more than the model has."""


class ObservationError(SelfAlignError):
    """An observation does not match the robot spec."""


class ModelError(SelfAlignError):
    """A model directory or configuration cannot be used."""


class SnapshotError(SelfAlignError):
    """A file that should hold a W does not hold one that this model can use."""


class StoreError(SelfAlignError):
    """The play store cannot do what was asked."""


class NoPlayData(SelfAlignError):
    """Alignment was asked for without enough recorded play."""
