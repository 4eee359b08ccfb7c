"""The specs that a robot has had, kept beside its versions of W: which W fits the present one?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

from selfalign.data.spec import RobotSpec
from selfalign.data.w_spec import differing_fields, w_spec_sha256
from selfalign.errors import SpecError
from server.durable import write_atomically
from server.registry_errors import WrongSpec

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


@final
class SpecHistory:
    """The present spec of a robot, and those before it in `specs/` of its lineage.

    Reads files when it is made, never after. `sha256` is the digest of what W depends on.
    """

    def __init__(self, lineage_dir: Path, spec: RobotSpec) -> None:
        self.sha256 = w_spec_sha256(spec)
        self._spec = spec
        self._folder = lineage_dir / "specs"
        self._before = self._read()

    def keep(self) -> None:
        """Write the present spec down, if it is not yet. Raises OSError."""
        path = self._folder / _file_name(self.sha256)
        if self.sha256 not in self._before:
            self._folder.mkdir(exist_ok=True)
            write_atomically(path, self._spec.to_yaml().encode())

    def refusal(self, subject: str, aligned_for: str | None) -> WrongSpec | None:
        """Why a W that was aligned for this digest cannot serve; None if it can.

        Args:
            subject: What is refused, to begin the sentence.
            aligned_for: Its digest; None where nobody knows, as for the base, which fits all.
        """
        if aligned_for in (None, self.sha256):
            return None
        assert aligned_for is not None
        differ, back = "", "start the server with that spec again"
        before = self._before.get(aligned_for)
        if before is not None:
            differ = f"; they differ in {', '.join(differing_fields(before, self._spec))}"
            kept = f"w/{self._folder.parent.name}/specs/{_file_name(aligned_for)}"
            back += f" ({kept} in the data folder)"
        return WrongSpec(
            f"{subject} was aligned for another spec of this robot (sha256 {aligned_for[:12]}, the "
            f"present one is {self.sha256[:12]}{differ}); {back}, or align for the present one",
            aligned_for=aligned_for,
            present=self.sha256,
        )

    def _read(self) -> dict[str, RobotSpec]:
        found: dict[str, RobotSpec] = {}
        for path in sorted(self._folder.glob("*.yaml")):
            try:
                spec = RobotSpec.from_file(path)
            except SpecError as error:
                logger.warning("a spec that a robot had before is not readable: %s", error)
            else:
                found[w_spec_sha256(spec)] = spec
        return found


def _file_name(sha256: str) -> str:
    return f"{sha256[:12]}.yaml"
