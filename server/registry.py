"""Which W each robot serves now, and every W before it.

Readers never lock: a swap is one attribute assignment of an immutable bundle. A request takes the
bundle once and holds it; its version, digest and weights belong together for ever. Writers (add,
activate, roll back, reject) are serialised, do file I/O and must not run on the event loop.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from selfalign.errors import SnapshotError
from server.bundle import Bundle, FrozenModel
from server.durable import quarantine
from server.lineage import LineageIndex, LineageStore, VersionRecord
from server.registry_errors import (
    NothingToRollBack,
    UnknownRobot,
    UnknownVersion,
    VersionRejected,
    WNotResident,
    WrongBase,
    WrongSpec,
)
from server.spec_history import SpecHistory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selfalign.data.spec import RobotSpec
    from selfalign.model.weights import FastWeights

logger = logging.getLogger(__name__)

SwapReason = Literal["align", "operator", "rollback", "upload"]


@final
@dataclass(frozen=True)
class SwapEvent:
    """The active version of a robot changed. `swap_ns` is the time of the assignment alone."""

    robot: str
    previous: int
    version: int
    sha256: str
    reason: SwapReason
    swap_ns: int


@final
class _Line:
    """One robot: `active` is the pointer that a swap assigns."""

    def __init__(
        self, store: LineageStore, index: LineageIndex, base: Bundle, specs: SpecHistory
    ) -> None:
        self.store = store
        self.index = index
        self.base = base
        self.specs = specs
        self.active = base
        self.resident: dict[int, Bundle] = {}


@final
class Registry:
    """All lineages of W. Reading `active` never blocks; writers are serialised.

    Args:
        root: Directory of all lineages, one folder a robot.
        base_w: W0 of the frozen model, version 0 of every robot.
        base_sha256: Digest of the frozen model; a snapshot of another one is refused.
        max_norm: Largest accepted norm of an uploaded or aligned W, None for no limit.
        keep_resident: How many versions besides base and active stay in memory.
    """

    def __init__(
        self,
        root: Path,
        base_w: FastWeights,
        base_sha256: str,
        *,
        max_norm: float | None = None,
        keep_resident: int = 3,
    ) -> None:
        self.base_sha256 = base_sha256
        self._root = root
        self._model = FrozenModel(base_w, base_sha256, max_norm)
        self._keep_resident = keep_resident
        self._lines: dict[str, _Line] = {}
        self._write = threading.RLock()
        self._subscribers: list[Callable[[SwapEvent], None]] = []

    # Reading: any thread, no lock.

    def active(self, robot: str) -> Bundle:
        """Return the bundle to serve now. Raises UnknownRobot."""
        return self._line(robot).active

    def get(self, robot: str, version: int) -> Bundle:
        """Return a version that is in memory.

        Raises:
            UnknownVersion, WrongBase, WrongSpec, WNotResident.
        """
        line = self._line(robot)
        for bundle in (line.active, line.base, line.resident.get(version)):
            if bundle is not None and bundle.version == version:
                return bundle
        self._check_serves(line, self.record(robot, version))
        known = sorted({0, line.active.version, *line.resident})
        raise WNotResident(robot, version, known)

    def versions(self, robot: str) -> tuple[VersionRecord, ...]:
        """Return what is known of every version, oldest first."""
        return self._line(robot).index.versions

    def record(self, robot: str, version: int) -> VersionRecord:
        """Return what is known of one version. Raises UnknownVersion."""
        record = self._line(robot).index.find(version)
        if record is None:
            raise UnknownVersion(robot, version)
        return record

    def read_bytes(self, robot: str, version: int) -> bytes:
        """Return the file of a version (blocking). Raises UnknownVersion, SnapshotError."""
        record = self.record(robot, version)
        if version == 0:
            return self._model.encode_base(robot)
        return self._read(self._line(robot), record)

    def file_of(self, robot: str, version: int) -> Path | None:
        """Return the snapshot file of a version, None for the base. Raises UnknownVersion."""
        record = self.record(robot, version)
        if version == 0:
            return None
        return self._line(robot).store.directory / record.file_name

    def refusal(self, robot: str, record: VersionRecord) -> WrongBase | WrongSpec | None:
        """Why a version cannot serve this robot on this model; None if it can."""
        return self._refusal(self._line(robot), record)

    def notice(self, robot: str) -> str:
        """What an operator should know of the W that serves; empty if nothing."""
        idle = self._idle(self._line(robot))
        return f"the base W serves: {idle}" if idle else ""

    def subscribe(self, callback: Callable[[SwapEvent], None]) -> None:
        """Call `callback` after every swap, in the thread that swapped."""
        self._subscribers.append(callback)

    # Writing: blocking, one at a time.

    def add_robot(self, spec: RobotSpec) -> Bundle:
        """Open the lineage of a robot, recover it from disk, and return what it serves."""
        robot = spec.name
        with self._write:
            if robot not in self._lines:
                self._lines[robot] = self._open(spec)
                notice = self.notice(robot)
                if notice:
                    logger.warning("robot %s: %s", robot, notice)
            return self._lines[robot].active

    def reserve(self, robot: str) -> int:
        """Set a version number aside for a snapshot to come; it is never given twice."""
        with self._write:
            line = self._line(robot)
            version = line.index.next_version
            self._save(line, line.index.model_copy(update={"next_version": version + 1}))
            return version

    def add_candidate(
        self, robot: str, source: bytes | Path, *, version: int | None = None
    ) -> VersionRecord:
        """Verify a snapshot completely, store it and keep it resident, without serving it.

        Args:
            robot: Whose lineage it joins.
            source: The safetensors bytes, or a file of them.
            version: A reserved number; None takes the next one.

        Raises:
            SnapshotError: The file is bad, or of another frozen model. Nothing changed.
            WrongSpec: It was aligned for another spec of the robot. Nothing changed.
            OSError: It could not be stored. Nothing changed.
        """
        data = source if isinstance(source, bytes) else source.read_bytes()
        snapshot = self._model.decode(data)
        with self._write:
            line = self._line(robot)
            twin = line.index.find_sha(snapshot.sha256)
            if twin is not None:
                self._check_serves(line, twin)
                return twin
            refusal = line.specs.refusal("this snapshot", snapshot.meta.spec_sha256)
            if refusal is not None:
                raise refusal
            number = line.index.next_version if version is None else version
            if line.index.find(number) is not None:
                raise ValueError(f"version {number} of robot {robot!r} exists already")
            record = VersionRecord.of(snapshot, version=number, status="candidate")
            line.store.write(record, data)
            # A file that does not say what it was aligned for belongs to the present spec.
            index = line.index.with_record(record).for_spec(line.specs.sha256)
            self._save(line, index)
            bundle = self._model.bundle(robot, number, record.sha256, snapshot.w)
            self._keep(line, bundle)
            return self.record(robot, number)

    def activate(
        self, robot: str, version: int, *, reason: SwapReason = "operator", force: bool = False
    ) -> Bundle:
        """Serve `version` from the next request on.

        Raises:
            UnknownVersion, WrongBase, WrongSpec, VersionRejected (unless `force`), SnapshotError,
                OSError: the version before goes on serving.
        """
        with self._write:
            line = self._line(robot)
            record = self.record(robot, version)
            if record.status == "rejected" and not force:
                raise VersionRejected(
                    f"version {version} of robot {robot!r} was rejected by its gates; "
                    "activate it with force=true if you know better"
                )
            bundle = self._load(line, record)
            self._save(line, line.index.activated(version))
            self._swap(line, bundle, reason)
            return bundle

    def rollback(self, robot: str) -> Bundle:
        """Serve the version that was active before. Works with a full disk too.

        Raises:
            NothingToRollBack: There was none.
            WrongSpec: There was one, but for another spec of the robot.
        """
        with self._write:
            line = self._line(robot)
            index = line.index.rolled_back()
            if index is None:
                idle = self._idle(line)
                if idle is not None:
                    raise idle
                raise NothingToRollBack(
                    f"robot {robot!r} has no version before {line.index.active}; "
                    "POST /w/0/activate goes to the base"
                )
            bundle = self._load(line, self.record(robot, index.active))
            self._swap(line, bundle, "rollback")
            try:
                self._save(line, index)
            except OSError:
                line.index = index
                logger.exception("robot %s was rolled back, but the index was not saved", robot)
            return bundle

    def reject(self, robot: str, version: int) -> None:
        """Mark a candidate as rejected by its gates."""
        with self._write:
            line = self._line(robot)
            if self.record(robot, version).status == "candidate":
                self._save(line, line.index.with_status(version, "rejected"))

    # Internals.

    def _line(self, robot: str) -> _Line:
        try:
            return self._lines[robot]
        except KeyError:
            raise UnknownRobot(robot, sorted(self._lines)) from None

    def _refusal(self, line: _Line, record: VersionRecord) -> WrongBase | WrongSpec | None:
        subject = f"version {record.version} of robot {line.base.robot!r}"
        if record.base_sha256 != self.base_sha256:
            return WrongBase(
                f"{subject} was aligned on frozen model {record.base_sha256[:12]}, but "
                f"{self.base_sha256[:12]} is loaded; align again"
            )
        return line.specs.refusal(subject, record.spec_sha256)

    def _check_serves(self, line: _Line, record: VersionRecord) -> None:
        refusal = self._refusal(line, record)
        if refusal is not None:
            raise refusal

    def _idle(self, line: _Line) -> WrongBase | WrongSpec | None:
        """Why what served under the spec before does not, while the base serves instead."""
        record = line.index.find(line.index.shelved_last())
        return None if record is None else self._refusal(line, record)

    def _open(self, spec: RobotSpec) -> _Line:
        robot = spec.name
        store = LineageStore(self._root, robot)
        snapshot = self._model.decode(self._model.encode_base(robot))
        record = VersionRecord.of(snapshot, version=0, status="base")
        stored = store.load_index()
        index = stored or LineageIndex(robot=robot, versions=(record,))
        if index.active == 0:
            record = record.model_copy(update={"status": "active"})
        base = self._model.bundle(robot, 0, record.sha256, self._model.base_w)
        specs = SpecHistory(store.directory, spec)
        line = _Line(store, index.with_record(record), base, specs)
        self._adopt_unlisted(line, robot)
        line.index = line.index.for_spec(specs.sha256)
        self._recover_active(line)
        specs.keep()
        store.save(line.index)
        return line

    def _adopt_unlisted(self, line: _Line, robot: str) -> None:
        """Files without a record: the server died between file and index, or the index was lost."""
        for version, path in line.store.unlisted_files(line.index):
            record = None
            try:
                snapshot = self._model.decode(path.read_bytes())
                record = VersionRecord.of(snapshot, version=version, status="candidate")
            except SnapshotError as error:
                logger.warning("%s of robot %s is set aside: %s", path.name, robot, error)
            if record is None or record.file_name != path.name or line.index.find(version):
                quarantine(path)
            else:
                line.index = line.index.with_record(record)

    def _recover_active(self, line: _Line) -> None:
        """Load the version that served last; where that fails the base serves."""
        version = line.index.active
        record = line.index.find(version)
        if record is None:
            line.index = line.index.without(version)
            return
        try:
            line.active = self._load(line, record)
        except (WrongBase, WrongSpec) as error:
            logger.warning("the base serves: %s", error)
            line.index = line.index.activated(0, remember=False)
        except SnapshotError as error:
            logger.warning("the base serves: %s", error)
            line.store.set_aside(record)
            line.index = line.index.without(version)

    def _read(self, line: _Line, record: VersionRecord) -> bytes:
        data = line.store.read(record)
        if data is None:
            raise SnapshotError(
                f"the file of version {record.version} of robot {line.base.robot!r} is missing or "
                f"was altered on disk (expected sha256 {record.sha256}); activate another version"
            )
        return data

    def _load(self, line: _Line, record: VersionRecord) -> Bundle:
        """Return the bundle of a version, from memory or verified from disk."""
        if record.version == 0:
            return line.base
        held = line.resident.get(record.version)
        if held is None and line.active.version == record.version:
            held = line.active
        if held is None:
            self._check_serves(line, record)
            snapshot = self._model.decode(self._read(line, record))
            held = self._model.bundle(line.base.robot, record.version, record.sha256, snapshot.w)
        self._keep(line, held)
        return held

    def _keep(self, line: _Line, bundle: Bundle) -> None:
        """Hold the last few versions in memory. Readers see the old dict or the new one."""
        others = [other for other in line.resident.values() if other.version != bundle.version]
        recent = [*others, bundle][-self._keep_resident :]
        line.resident = {other.version: other for other in recent}

    def _save(self, line: _Line, index: LineageIndex) -> None:
        line.store.save(index)
        line.index = index

    def _swap(self, line: _Line, bundle: Bundle, reason: SwapReason) -> None:
        previous = line.active.version
        start = time.perf_counter_ns()
        line.active = bundle
        swap_ns = time.perf_counter_ns() - start
        event = SwapEvent(bundle.robot, previous, bundle.version, bundle.sha256, reason, swap_ns)
        logger.info("robot %s: W %d -> %d (%s)", bundle.robot, previous, bundle.version, reason)
        for callback in self._subscribers:
            callback(event)
