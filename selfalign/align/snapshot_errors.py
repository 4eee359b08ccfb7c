"""One error for each way in which a snapshot of W can be bad."""

from typing import final

from selfalign.errors import SnapshotError


@final
class SnapshotTruncated(SnapshotError):
    """The file ends before its header or its tensors do."""


@final
class SnapshotNotSafetensors(SnapshotError):
    """The bytes are no well-formed safetensors file."""


@final
class SnapshotTooBig(SnapshotError):
    """The file, or what its header claims, is larger than a snapshot of this model can be."""


@final
class SnapshotBadMetadata(SnapshotError):
    """The metadata are missing, malformed or outside their ranges."""


@final
class SnapshotWrongBase(SnapshotError):
    """The snapshot was aligned on another frozen model."""


@final
class SnapshotWrongKeys(SnapshotError):
    """Tensors of W are missing, or there are tensors that are not part of W."""


@final
class SnapshotWrongDtype(SnapshotError):
    """A tensor is not float32."""


@final
class SnapshotWrongShape(SnapshotError):
    """A tensor has another shape than the model's."""


@final
class SnapshotNotFinite(SnapshotError):
    """A tensor holds NaN or infinity."""


@final
class SnapshotNormTooLarge(SnapshotError):
    """The norm of W is beyond the limit: alignment has blown up."""


@final
class SnapshotExists(SnapshotError):
    """The path already holds another snapshot; a snapshot is never overwritten."""
