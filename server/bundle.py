"""A version of W in memory, ready to serve, and how the bytes of a snapshot become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from selfalign.align.snapshot import SnapshotMeta, decode_snapshot, encode_snapshot

if TYPE_CHECKING:
    from selfalign.align.snapshot import Snapshot
    from selfalign.model.weights import FastWeights

_EPOCH = "1970-01-01T00:00:00+00:00"


@final
@dataclass(frozen=True)
class Bundle:
    """One version of W, ready to serve. Immutable, safe to read from any thread."""

    robot: str
    version: int
    sha256: str
    base_sha256: str
    w: FastWeights


@final
@dataclass(frozen=True)
class FrozenModel:
    """What a W must fit to be used: the model that is loaded.

    Attributes:
        base_w: W0, version 0 of every robot; fixes names, shapes and the device.
        base_sha256: digest of the model; a snapshot of another one is refused.
        max_norm: largest accepted norm of W, None for no limit.
    """

    base_w: FastWeights
    base_sha256: str
    max_norm: float | None = None

    def decode(self, data: bytes) -> Snapshot:
        """Verify the bytes of a snapshot completely. Raises SnapshotError."""
        return decode_snapshot(
            data, like=self.base_w, base_sha256=self.base_sha256, max_norm=self.max_norm
        )

    def encode_base(self, robot: str) -> bytes:
        """The base W as the file of version 0 of a robot."""
        meta = SnapshotMeta(
            version=0,
            parent=None,
            robot=robot,
            base_sha256=self.base_sha256,
            session=None,
            created_at=_EPOCH,
            steps=0,
            play_steps=0,
            metrics={},
            note="base",
        )
        return encode_snapshot(self.base_w, meta)

    def bundle(self, robot: str, version: int, sha256: str, w: FastWeights) -> Bundle:
        """A verified W on the device of the model."""
        device = self.base_w.W1.device
        ready = w.map(lambda tensor: tensor.to(device))
        return Bundle(robot, version, sha256, self.base_sha256, ready)
