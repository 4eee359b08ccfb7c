"""A W that was aligned for another spec of its robot is kept and never served."""

import json
import logging
from pathlib import Path

import pytest

from selfalign.data.spec import RobotSpec
from selfalign.data.w_spec import w_spec_sha256
from server.registry import Registry
from server.registry_errors import NothingToRollBack, WNotResident, WrongSpec
from tests.fakes.running import arm_spec
from tests.fakes.weights import BASE_SHA256, make_w, snapshot_bytes

OLD = arm_spec()
NEW = arm_spec(rate_hz=10.0)
OLD_SHA256, NEW_SHA256 = w_spec_sha256(OLD), w_spec_sha256(NEW)


def opened(root: Path, spec: RobotSpec) -> Registry:
    """The registry of a server that starts with this spec."""
    registry = Registry(root, make_w(0.0), BASE_SHA256)
    registry.add_robot(spec)
    return registry


def activate_new(registry: Registry, value: float, spec: RobotSpec) -> int:
    data = snapshot_bytes(value, spec_sha256=w_spec_sha256(spec))
    version = registry.add_candidate("arm", data).version
    return registry.activate("arm", version).version


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Lineages in which versions 1 and 2 served under the old spec, 2 last."""
    registry = opened(tmp_path, OLD)
    activate_new(registry, 1.0, OLD)
    activate_new(registry, 2.0, OLD)
    return tmp_path


def forget_specs(root: Path) -> None:
    """Make the lineage one of a server that knew nothing of specs."""
    path = root / "arm" / "index.json"
    index = json.loads(path.read_text())
    del index["spec_sha256"], index["shelved"]
    for version in index["versions"]:
        del version["spec_sha256"]
    path.write_text(json.dumps(index))
    for spec in (root / "arm" / "specs").iterdir():
        spec.unlink()


def test_base_serves_under_another_spec_and_the_old_w_is_listed(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        registry = opened(root, NEW)
    assert registry.active("arm").version == 0
    records = registry.versions("arm")
    assert [(r.version, r.status) for r in records] == [
        (0, "active"),
        (1, "retired"),
        (2, "retired"),
    ]
    refusals = [registry.refusal("arm", record) for record in records]
    assert [type(refusal) for refusal in refusals] == [type(None), WrongSpec, WrongSpec]
    notice = registry.notice("arm")
    assert notice.startswith("the base W serves: version 2 of robot 'arm' was aligned for another")
    for said in (OLD_SHA256[:12], NEW_SHA256[:12], "differ in rate_hz", "align for the present"):
        assert said in notice
    assert f"robot arm: {notice}" in caplog.text


def test_the_refusal_names_a_file_that_is_the_old_spec(root: Path) -> None:
    registry = opened(root, NEW)
    name = f"arm/specs/{OLD_SHA256[:12]}.yaml"
    assert f"w/{name}" in registry.notice("arm")
    assert RobotSpec.from_file(root / name) == OLD


def test_nothing_makes_the_old_w_serve(root: Path) -> None:
    registry = opened(root, NEW)
    with pytest.raises(WrongSpec, match="version 1 of robot 'arm'") as caught:
        registry.activate("arm", 1, force=True)
    assert caught.value.extra == {"spec_sha256": OLD_SHA256, "robot_spec_sha256": NEW_SHA256}
    with pytest.raises(WrongSpec, match="version 2 of robot 'arm'"):
        registry.rollback("arm")
    for version in (1, 2):
        with pytest.raises(WrongSpec):
            registry.get("arm", version)
    assert registry.active("arm").version == 0


def test_the_old_spec_brings_back_what_served_and_its_way_back(root: Path) -> None:
    opened(root, NEW)
    registry = opened(root, OLD)
    assert (registry.active("arm").version, registry.notice("arm")) == (2, "")
    assert [r.status for r in registry.versions("arm")] == ["base", "retired", "active"]
    assert registry.rollback("arm").version == 1
    assert registry.rollback("arm").version == 0


def test_each_spec_has_its_own_active_w(root: Path) -> None:
    registry = opened(root, NEW)
    assert activate_new(registry, 3.0, NEW) == 3
    assert registry.notice("arm") == ""
    assert registry.rollback("arm").version == 0
    registry.activate("arm", 3)
    for spec, version in ((OLD, 2), (NEW, 3), (NEW, 3), (OLD, 2)):
        again = opened(root, spec)
        assert again.active("arm").version == version
        value = float(again.active("arm").w.W1.flatten()[0])
        assert value == float(version)


def test_a_base_that_was_chosen_stays_chosen(root: Path) -> None:
    opened(root, OLD).activate("arm", 0)
    registry = opened(root, NEW)
    assert registry.notice("arm") == ""
    with pytest.raises(NothingToRollBack):
        registry.rollback("arm")
    assert opened(root, OLD).active("arm").version == 0


def test_an_edit_that_w_does_not_depend_on_changes_nothing(root: Path) -> None:
    edited = arm_spec(default_instruction="hold still", max_step=[0.1, None])
    registry = opened(root, edited)
    assert (registry.active("arm").version, registry.notice("arm")) == (2, "")


@pytest.mark.parametrize("named", [True, False])
def test_snapshots_of_another_spec_are_not_taken(tmp_path: Path, *, named: bool) -> None:
    registry = opened(tmp_path, NEW)
    data = snapshot_bytes(1.0, spec_sha256=OLD_SHA256 if named else None)
    if named:
        with pytest.raises(WrongSpec, match="this snapshot was aligned for another spec"):
            registry.add_candidate("arm", data)
        assert len(registry.versions("arm")) == 1
        assert not list((tmp_path / "arm").glob("*.safetensors*"))
    else:
        record = registry.add_candidate("arm", data)
        assert record.spec_sha256 == NEW_SHA256
        assert registry.read_bytes("arm", record.version) == data
        registry = opened(tmp_path, OLD)
        with pytest.raises(WrongSpec):
            registry.add_candidate("arm", data)


def test_a_file_of_a_robot_of_the_same_make_is_taken(tmp_path: Path) -> None:
    twin = arm_spec("arm-2")
    registry = opened(tmp_path, twin)
    data = snapshot_bytes(1.0, robot="arm", spec_sha256=OLD_SHA256)
    assert registry.add_candidate("arm-2", data).spec_sha256 == OLD_SHA256


def test_older_lineages_are_taken_to_be_of_the_spec_of_the_first_start(tmp_path: Path) -> None:
    registry = opened(tmp_path, OLD)
    data = snapshot_bytes(1.0)
    record = registry.add_candidate("arm", data)
    registry.activate("arm", 1)
    forget_specs(tmp_path)

    registry = opened(tmp_path, OLD)
    assert registry.active("arm").version == 1
    assert [r.spec_sha256 for r in registry.versions("arm")] == [None, OLD_SHA256]
    assert (tmp_path / "arm" / record.file_name).read_bytes() == data

    registry = opened(tmp_path, NEW)
    assert registry.active("arm").version == 0
    assert "differ in rate_hz" in registry.notice("arm")
    assert opened(tmp_path, OLD).active("arm").version == 1


def test_a_file_that_names_its_spec_is_believed_also_in_an_older_index(root: Path) -> None:
    path = root / "arm" / "index.json"
    forget_specs(root)
    index = json.loads(path.read_text())
    for version in index["versions"][1:]:
        version["spec_sha256"] = OLD_SHA256
    path.write_text(json.dumps(index))
    registry = opened(root, NEW)
    assert registry.active("arm").version == 0
    with pytest.raises(WrongSpec):
        registry.rollback("arm")


def test_a_lost_index_gives_no_w_to_another_spec(root: Path) -> None:
    (root / "arm" / "index.json").write_text("{ torn")
    registry = opened(root, NEW)
    with pytest.raises(WrongSpec):
        registry.activate("arm", 2)
    registry = opened(root, OLD)
    assert registry.active("arm").version == 0
    assert registry.activate("arm", 2).version == 2


def test_a_file_without_a_record_is_of_the_spec_of_the_start_before(tmp_path: Path) -> None:
    registry = opened(tmp_path, OLD)
    before = (tmp_path / "arm" / "index.json").read_bytes()
    registry.add_candidate("arm", snapshot_bytes(1.0))
    (tmp_path / "arm" / "index.json").write_bytes(before)
    registry = opened(tmp_path, NEW)
    assert registry.record("arm", 1).spec_sha256 == OLD_SHA256


def test_a_file_that_went_bad_on_the_shelf_does_not_come_back(root: Path) -> None:
    registry = opened(root, NEW)
    (root / "arm" / registry.record("arm", 2).file_name).write_bytes(b"spoilt")
    registry = opened(root, OLD)
    assert registry.active("arm").version == 0
    assert [r.version for r in registry.versions("arm")] == [0, 1]
    assert registry.rollback("arm").version == 1


def test_a_spec_file_that_is_spoilt_is_only_missed(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "arm" / "specs" / f"{OLD_SHA256[:12]}.yaml").write_text("name: [")
    registry = opened(root, NEW)
    assert "not readable" in caplog.text
    notice = registry.notice("arm")
    assert OLD_SHA256[:12] in notice
    assert "differ in" not in notice
    assert ".yaml" not in notice
    opened(root, OLD)
    assert RobotSpec.from_file(root / "arm" / "specs" / f"{OLD_SHA256[:12]}.yaml") == OLD


def test_a_version_of_the_present_spec_is_still_only_not_in_memory(root: Path) -> None:
    registry = opened(root, OLD)
    with pytest.raises(WNotResident):
        registry.get("arm", 1)
