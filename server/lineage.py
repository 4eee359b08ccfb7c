"""The versions of W of one robot as they lie on disk: snapshot files and one index.

`index.json` is the truth; the files carry their version in their name, so that the index can be
rebuilt when it is lost. Nothing here is shared between threads: the registry serialises writers.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, final
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.durable import quarantine, write_atomically

if TYPE_CHECKING:
    from selfalign.align.snapshot import Snapshot

logger = logging.getLogger(__name__)

Status = Literal["base", "active", "candidate", "retired", "rejected"]

_FILE = re.compile(r"^(\d{6,})-([0-9a-f]{8})\.safetensors$")
_HISTORY = 64


class VersionRecord(BaseModel):
    """What is known of one version of W. Version 0 is the base and has no file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=0)
    parent: int | None = None
    sha256: str
    base_sha256: str
    created_at: str
    session: str | None = None
    steps: int = 0
    play_steps: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    status: Status
    nbytes: int
    note: str = ""
    spec_sha256: str | None = Field(None, description="What of a spec it was aligned for")

    @property
    def file_name(self) -> str:
        """Name of the snapshot file: version and the start of its digest."""
        return f"{self.version:06d}-{self.sha256[:8]}.safetensors"

    @classmethod
    def of(cls, snapshot: Snapshot, *, version: int, status: Status) -> Self:
        """Describe a snapshot under the version that this lineage gives it."""
        meta = snapshot.meta
        return cls(
            version=version,
            parent=meta.parent,
            sha256=snapshot.sha256,
            base_sha256=meta.base_sha256,
            created_at=meta.created_at,
            session=meta.session,
            steps=meta.steps,
            play_steps=meta.play_steps,
            metrics=dict(meta.metrics),
            status=status,
            nbytes=snapshot.nbytes,
            note=meta.note,
            spec_sha256=meta.spec_sha256,
        )


class Shelved(BaseModel):
    """What was active, and before that, while the robot had another spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec_sha256: str
    active: int = 0
    history: tuple[int, ...] = ()

    def without(self, version: int) -> Self:
        """Forget a version whose file is bad."""
        active = 0 if version == self.active else self.active
        history = tuple(each for each in self.history if each != version)
        return self.model_copy(update={"active": active, "history": history})


class LineageIndex(BaseModel):
    """All versions of one robot, which one is active and which were before. Immutable.

    `spec_sha256` is the digest of what W depends on in the spec that `active` and `history` belong
    to, None before it was recorded; `shelved` has those of other specs, the latest last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    robot: str
    active: int = 0
    history: tuple[int, ...] = ()
    next_version: int = Field(1, ge=1)
    versions: tuple[VersionRecord, ...]
    spec_sha256: str | None = None
    shelved: tuple[Shelved, ...] = ()

    def find(self, version: int) -> VersionRecord | None:
        """Return the record of `version`, or None."""
        return next((record for record in self.versions if record.version == version), None)

    def find_sha(self, sha256: str) -> VersionRecord | None:
        """Return the record whose file has this digest, or None."""
        return next((record for record in self.versions if record.sha256 == sha256), None)

    def with_record(self, record: VersionRecord) -> Self:
        """Add a version; version numbers are never used twice."""
        kept = tuple(other for other in self.versions if other.version != record.version)
        versions = tuple(sorted((*kept, record), key=lambda each: each.version))
        following = max(self.next_version, record.version + 1)
        return self.model_copy(update={"versions": versions, "next_version": following})

    def with_status(self, version: int, status: Status) -> Self:
        """Change the status of one version."""
        versions = tuple(
            record.model_copy(update={"status": status}) if record.version == version else record
            for record in self.versions
        )
        return self.model_copy(update={"versions": versions})

    def activated(self, version: int, *, remember: bool = True) -> Self:
        """Make `version` the active one; the one before is remembered for a rollback."""
        if version == self.active:
            return self
        left: Status = "base" if self.active == 0 else "retired"
        history = (*self.history, self.active)[-_HISTORY:] if remember else self.history
        index = self.with_status(self.active, left).with_status(version, "active")
        return index.model_copy(update={"active": version, "history": history})

    def for_spec(self, sha256: str) -> Self:
        """The lineage under a spec: as that spec left it, from the base if it is new.

        Where no spec was recorded yet, this one is taken to be the one of all versions.
        """
        index = self._with_spec(self.spec_sha256 or sha256)
        if index.spec_sha256 == sha256:
            return index
        left = Shelved(spec_sha256=index.spec_sha256, active=self.active, history=self.history)
        others = tuple(each for each in self.shelved if each.spec_sha256 != sha256)
        back = next((each for each in self.shelved if each.spec_sha256 == sha256), None)
        back = back or Shelved(spec_sha256=sha256)
        return index.activated(back.active, remember=False).model_copy(
            update={"spec_sha256": sha256, "history": back.history, "shelved": (*others, left)}
        )

    def shelved_last(self) -> int:
        """The version that another spec left active, while the base serves; 0 if there is none."""
        left = [each.active for each in self.shelved if each.active]
        return left[-1] if left and self.active == 0 else 0

    def _with_spec(self, sha256: str) -> Self:
        """Record the spec, also of versions whose file names none; the base fits every spec."""
        versions = tuple(
            record.model_copy(update={"spec_sha256": record.spec_sha256 or sha256})
            if record.version
            else record
            for record in self.versions
        )
        return self.model_copy(update={"versions": versions, "spec_sha256": sha256})

    def rolled_back(self) -> Self | None:
        """Go back to the version active before, or None where there was none."""
        if not self.history:
            return None
        back = self.activated(self.history[-1], remember=False)
        return back.model_copy(update={"history": self.history[:-1]})

    def without(self, version: int) -> Self:
        """Forget a version whose file is bad; the base serves if it was the active one."""
        index = self.activated(0, remember=False) if version == self.active else self
        return index.model_copy(
            update={
                "versions": tuple(r for r in index.versions if r.version != version),
                "history": tuple(v for v in index.history if v != version),
                "shelved": tuple(each.without(version) for each in index.shelved),
            }
        )


@final
class LineageStore:
    """The directory of one robot's versions."""

    def __init__(self, root: Path, robot: str) -> None:
        self.directory = root / quote(robot, safe="").replace(".", "%2E")
        self.directory.mkdir(parents=True, exist_ok=True)

    def save(self, index: LineageIndex) -> None:
        """Write the index. Raises OSError and changes nothing where the disk is full."""
        payload = index.model_dump_json(indent=1).encode()
        write_atomically(self.directory / "index.json", payload)

    def write(self, record: VersionRecord, data: bytes) -> None:
        """Write the file of a version. Raises OSError."""
        write_atomically(self.directory / record.file_name, data)

    def read(self, record: VersionRecord) -> bytes | None:
        """Return the bytes of a version, or None where the file is missing or altered."""
        try:
            data = (self.directory / record.file_name).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == record.sha256 else None

    def set_aside(self, record: VersionRecord) -> None:
        """Move the file of a bad version out of the way."""
        path = self.directory / record.file_name
        if path.exists():
            quarantine(path)

    def load_index(self) -> LineageIndex | None:
        """Read the index; one that cannot be read is set aside and None returned."""
        path = self.directory / "index.json"
        try:
            return LineageIndex.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            logger.warning("%s is damaged and set aside: %s", path, error)
            quarantine(path)
            return None

    def unlisted_files(self, index: LineageIndex) -> list[tuple[int, Path]]:
        """Return (version, path) of snapshot files the index does not list; remove leftovers."""
        listed = {record.file_name for record in index.versions}
        found: list[tuple[int, Path]] = []
        for path in sorted(self.directory.iterdir()):
            if path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)
            match = _FILE.match(path.name)
            if match is not None and path.name not in listed:
                found.append((int(match.group(1)), path))
        return found
