"""The registry: one pointer a robot, nothing mislabelled, nothing lost."""

import hashlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfalign.errors import SnapshotError
from server.registry import Registry, SwapEvent
from server.registry_errors import (
    NothingToRollBack,
    UnknownRobot,
    UnknownVersion,
    VersionRejected,
    WNotResident,
    WrongBase,
)
from tests.fakes.running import arm_spec
from tests.fakes.weights import BASE_SHA256, make_w, snapshot_bytes


def open_registry(root: Path, *, base_sha256: str = BASE_SHA256) -> Registry:
    registry = Registry(root, make_w(0.0), base_sha256)
    registry.add_robot(arm_spec())
    return registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


def lineage_dir(tmp_path: Path) -> Path:
    return tmp_path / "arm"


def value_of(registry: Registry) -> float:
    return float(registry.active("arm").w.W1[0, 0, 0, 0])


def test_base_serves_first_as_version_zero(registry: Registry) -> None:
    bundle = registry.active("arm")
    assert (bundle.version, bundle.base_sha256, bundle.robot) == (0, BASE_SHA256, "arm")
    assert [record.status for record in registry.versions("arm")] == ["active"]


def test_digest_of_the_base_is_that_of_its_file(registry: Registry) -> None:
    data = registry.read_bytes("arm", 0)
    assert hashlib.sha256(data).hexdigest() == registry.active("arm").sha256


def test_candidate_does_not_serve_until_activated(registry: Registry) -> None:
    record = registry.add_candidate("arm", snapshot_bytes(1.0))
    assert (record.version, record.status, value_of(registry)) == (1, "candidate", 0.0)
    bundle = registry.activate("arm", 1)
    assert (bundle.version, bundle.sha256, value_of(registry)) == (1, record.sha256, 1.0)
    assert [each.status for each in registry.versions("arm")] == ["base", "active"]


def test_candidate_can_come_from_a_file_under_a_reserved_version(
    registry: Registry, tmp_path: Path
) -> None:
    version = registry.reserve("arm")
    path = tmp_path / "candidate.safetensors"
    path.write_bytes(snapshot_bytes(1.0))
    registry.add_candidate("arm", snapshot_bytes(2.0))
    record = registry.add_candidate("arm", path, version=version)
    assert (version, record.version) == (1, 1)
    assert [each.version for each in registry.versions("arm")] == [0, 1, 2]


def test_the_same_bytes_twice_are_one_version(registry: Registry) -> None:
    first = registry.add_candidate("arm", snapshot_bytes(1.0))
    assert registry.add_candidate("arm", snapshot_bytes(1.0)) == first


@pytest.mark.parametrize("data", [b"", b"not a snapshot", snapshot_bytes(1.0)[:-10]])
def test_bad_bytes_change_nothing(registry: Registry, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SnapshotError):
        registry.add_candidate("arm", data)
    assert len(registry.versions("arm")) == 1
    assert not list(lineage_dir(tmp_path).glob("*.safetensors*"))


def test_snapshot_of_another_base_is_refused(registry: Registry) -> None:
    with pytest.raises(SnapshotError):
        registry.add_candidate("arm", snapshot_bytes(1.0, base_sha256="c" * 64))


def test_rollback_goes_back_step_by_step(registry: Registry) -> None:
    for value in (1.0, 2.0):
        registry.activate(
            "arm", registry.add_candidate("arm", snapshot_bytes(float(value))).version
        )
    assert registry.rollback("arm").version == 1
    assert registry.rollback("arm").version == 0
    with pytest.raises(NothingToRollBack):
        registry.rollback("arm")


def test_activating_the_active_version_is_not_a_step_to_roll_back(registry: Registry) -> None:
    registry.activate("arm", registry.add_candidate("arm", snapshot_bytes(1.0)).version)
    registry.activate("arm", 1)
    assert registry.rollback("arm").version == 0


def test_last_three_versions_and_the_base_are_resident(registry: Registry) -> None:
    for value in range(1, 6):
        registry.activate(
            "arm", registry.add_candidate("arm", snapshot_bytes(float(value))).version
        )
    assert [registry.get("arm", version).version for version in (0, 3, 4, 5)] == [0, 3, 4, 5]
    with pytest.raises(WNotResident, match=r"\[0, 3, 4, 5\]"):
        registry.get("arm", 1)
    assert registry.activate("arm", 1).version == 1


def test_unknown_names_are_said(registry: Registry) -> None:
    with pytest.raises(UnknownRobot, match="'leg' is not known; known robots: arm"):
        registry.active("leg")
    with pytest.raises(UnknownVersion):
        registry.get("arm", 7)
    with pytest.raises(UnknownVersion):
        registry.activate("arm", 7)


def test_rejected_version_needs_force(registry: Registry) -> None:
    registry.add_candidate("arm", snapshot_bytes(1.0))
    registry.reject("arm", 1)
    with pytest.raises(VersionRejected):
        registry.activate("arm", 1)
    assert registry.activate("arm", 1, force=True).version == 1


def test_subscribers_hear_of_every_swap(registry: Registry) -> None:
    heard: list[SwapEvent] = []
    registry.subscribe(heard.append)
    registry.activate("arm", registry.add_candidate("arm", snapshot_bytes(1.0)).version)
    registry.rollback("arm")
    assert [(e.previous, e.version, e.reason) for e in heard] == [
        (0, 1, "operator"),
        (1, 0, "rollback"),
    ]


def test_restart_serves_what_served(registry: Registry, tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        registry.activate(
            "arm", registry.add_candidate("arm", snapshot_bytes(float(value))).version
        )
    again = open_registry(tmp_path)
    assert again.versions("arm") == registry.versions("arm")
    assert (again.active("arm").version, value_of(again)) == (2, 2.0)
    assert again.rollback("arm").version == 1


def test_altered_file_is_quarantined_and_the_base_serves(
    registry: Registry, tmp_path: Path
) -> None:
    record = registry.add_candidate("arm", snapshot_bytes(1.0))
    registry.activate("arm", 1)
    path = lineage_dir(tmp_path) / record.file_name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    again = open_registry(tmp_path)
    assert again.active("arm").version == 0
    assert [each.version for each in again.versions("arm")] == [0]
    assert (lineage_dir(tmp_path) / "quarantine" / record.file_name).exists()
    assert again.add_candidate("arm", snapshot_bytes(2.0)).version == 2


def test_lost_index_is_rebuilt_from_the_files(registry: Registry, tmp_path: Path) -> None:
    registry.activate("arm", registry.add_candidate("arm", snapshot_bytes(1.0)).version)
    (lineage_dir(tmp_path) / "index.json").write_text("{ torn")
    again = open_registry(tmp_path)
    assert again.active("arm").version == 0
    assert [(r.version, r.status) for r in again.versions("arm")] == [
        (0, "active"),
        (1, "candidate"),
    ]
    assert again.activate("arm", 1).version == 1


def test_other_frozen_model_serves_its_base_and_keeps_the_old_versions(
    registry: Registry, tmp_path: Path
) -> None:
    registry.activate("arm", registry.add_candidate("arm", snapshot_bytes(1.0)).version)
    again = open_registry(tmp_path, base_sha256="c" * 64)
    assert again.active("arm").version == 0
    assert [each.version for each in again.versions("arm")] == [0, 1]
    with pytest.raises(WrongBase):
        again.activate("arm", 1)


def test_leftovers_of_a_crash_are_removed_or_adopted(registry: Registry, tmp_path: Path) -> None:
    record = registry.add_candidate("arm", snapshot_bytes(1.0))
    whole = (lineage_dir(tmp_path) / record.file_name).read_bytes()
    (lineage_dir(tmp_path) / "index.json").unlink()
    (lineage_dir(tmp_path) / "000009-12345678.safetensors.tmp").write_bytes(whole[:9])
    (lineage_dir(tmp_path) / "000002-12345678.safetensors").write_bytes(whole[:9])
    again = open_registry(tmp_path)
    assert [each.version for each in again.versions("arm")] == [0, 1]
    names = {path.name for path in lineage_dir(tmp_path).iterdir()}
    assert names == {"index.json", record.file_name, "quarantine", "specs"}


def test_full_disk_refuses_activation_but_not_rollback(registry: Registry, tmp_path: Path) -> None:
    registry.activate("arm", registry.add_candidate("arm", snapshot_bytes(1.0)).version)
    registry.add_candidate("arm", snapshot_bytes(2.0))
    # A directory in the way of the index makes every write of it fail.
    (lineage_dir(tmp_path) / "index.json.tmp").mkdir()
    with pytest.raises(OSError, match="index"):
        registry.activate("arm", 2)
    assert registry.active("arm").version == 1
    assert registry.rollback("arm").version == 0


def test_robots_have_lineages_of_their_own(registry: Registry) -> None:
    registry.add_robot(arm_spec("leg"))
    registry.activate("leg", registry.add_candidate("leg", snapshot_bytes(3.0)).version)
    assert (registry.active("arm").version, registry.active("leg").version) == (0, 1)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Let threads take turns far more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_swaps_under_readers_mislabel_nothing(registry: Registry) -> None:
    """W is filled with a number that its version determines; a reader compares the two."""
    for value in (1.0, 2.0, 3.0):
        registry.add_candidate("arm", snapshot_bytes(value))
    digests = {record.version: record.sha256 for record in registry.versions("arm")}
    wrong: list[tuple[int, float]] = []
    reads = [0] * 2
    stop = threading.Event()

    def read(reader: int) -> None:
        while not stop.is_set():
            bundle = registry.active("arm")
            value = float(bundle.w.W1[1, 1, 3, 3])
            if value != float(bundle.version) or bundle.sha256 != digests[bundle.version]:
                wrong.append((bundle.version, value))
            reads[reader] += 1

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(len(reads))]
    for thread in threads:
        thread.start()
    swaps = 0
    # Every swap is synced to the disk, which takes its time: some must do.
    while swaps < 30 or min(reads) < 30:
        registry.activate("arm", swaps % 4)
        swaps += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
