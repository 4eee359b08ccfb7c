"""The play store: the oldest episodes make room, and a full disk loses nothing."""

import shutil

import pytest

from selfalign.data.episode_layout import read_record, write_record
from selfalign.data.play_store import (
    EpisodeClosed,
    StoreFull,
    StoreWriteError,
)
from tests.fakes.play_steps import assert_is_steps, small_spec, step
from tests.fakes.play_store import SPEC, files_of_at_most, open_store, record


def test_oldest_unpinned_episode_makes_room(tmp_path):
    with open_store(tmp_path) as store:
        ids = [record(store, 16).id for _ in range(3)]
        each = store.episodes()[0].bytes
    with open_store(tmp_path, quota_bytes=3 * each + 70_000) as store:
        store.pin(ids[0])
        fresh = record(store, 16).id
        assert {info.id for info in store.episodes()} == {ids[0], ids[2], fresh}
        assert store.used_bytes() <= 3 * each + 70_000


def test_clock_set_back_does_not_make_fresh_play_the_oldest(tmp_path):
    with open_store(tmp_path) as store:
        path = store.open(record(store, 4).id).path
        future = "20991231T235959999-abcdef"
        write_record(path, read_record(path).model_copy(update={"id": future}), fsync=False)
        path.rename(path.with_name(f"{future}.zarr"))
        fresh = record(store, 4)
        again = record(store, 4)
        assert [info.id for info in store.episodes()] == [future, fresh.id, again.id]
        assert fresh.id.startswith("21000101T000000000")
        assert fresh.created_at < "2099"


def test_quota_too_small_is_full_and_deletes_nothing(tmp_path):
    with open_store(tmp_path) as store:
        kept = record(store, 8)
    with open_store(tmp_path, quota_bytes=50_000) as store:
        with pytest.raises(StoreFull, match="raise the quota"):
            store.start_episode(SPEC)
        assert [info.id for info in store.episodes()] == [kept.id]


def test_pinned_episodes_are_never_deleted_for_room(tmp_path):
    with open_store(tmp_path) as store:
        kept = record(store, 40)
    with open_store(tmp_path, quota_bytes=kept.bytes + 60_000) as store:
        store.pin(kept.id)
        with pytest.raises(StoreFull):
            store.start_episode(SPEC)
        store.unpin(kept.id)
        store.start_episode(SPEC).abort()
        assert store.episodes() == []


def test_free_space_is_kept(tmp_path):
    free = [10**9]
    with open_store(tmp_path, min_free_bytes=10**6, disk_free=lambda _: free[0]) as store:
        old = record(store, 40)
        writer = store.start_episode(SPEC)
        for i in range(4):
            writer.append(step(i, SPEC))
        free[0] = 10**6
        for i in range(4, 8):
            writer.append(step(i, SPEC))
        with pytest.raises(StoreFull, match="must stay"):
            writer.append(step(8, SPEC))
        assert [info.id for info in store.episodes()] == [old.id, writer.id]
        free[0] = 10**9
        for i in range(8, 10):
            writer.append(step(i, SPEC))
        assert_is_steps(store.open(writer.seal().id).read(0, 10), 0, 10, SPEC)


def test_full_disk_loses_no_step_that_was_taken(tmp_path):
    spec = small_spec(height=256, width=256)
    with open_store(tmp_path) as store:
        writer = store.start_episode(spec)
        for i in range(5):
            writer.append(step(i, spec))
        with files_of_at_most(300_000):
            # The block of steps 4 to 7 does not fit; step 7 is still taken.
            for i in range(5, 8):
                assert writer.append(step(i, spec)) == 4
            for _ in range(2):
                with pytest.raises(StoreFull, match="disk is full"):
                    writer.append(step(8, spec))
            with pytest.raises(StoreFull):
                writer.flush()
            with pytest.raises(StoreFull):
                writer.seal()
            assert (writer.received, writer.durable) == (8, 4)
            assert_is_steps(store.open(writer.id).read(0, 4), 0, 4, spec)
        for i in range(8, 11):
            writer.append(step(i, spec))
        assert_is_steps(store.open(writer.seal().id).read(0, 11), 0, 11, spec)
        assert not list(tmp_path.rglob("*.partial"))


def test_episode_on_a_full_disk_can_be_sealed_without_its_pending_steps(tmp_path):
    spec = small_spec(height=256, width=256)
    with open_store(tmp_path) as store:
        writer = store.start_episode(spec)
        for i in range(6):
            writer.append(step(i, spec))
        with files_of_at_most(300_000):
            info = writer.seal(discard_pending=True)
        assert info.length == 4
        assert_is_steps(store.open(info.id).read(0, 4), 0, 4, spec)


def test_full_disk_at_the_start_leaves_nothing_behind(store):
    with files_of_at_most(10), pytest.raises(StoreFull):
        store.start_episode(SPEC)
    assert store.episodes() == []
    assert list((store.root / "staging").iterdir()) == []


def test_seal_that_fails_half_way_can_be_repeated(store):
    writer = store.start_episode(SPEC)
    for i in range(4):
        writer.append(step(i, SPEC))
    with files_of_at_most(10):
        with pytest.raises(StoreFull):
            writer.seal()
        with pytest.raises(EpisodeClosed, match="call seal again"):
            writer.append(step(4, SPEC))
    assert_is_steps(store.open(writer.seal().id).read(0, 4), 0, 4, SPEC)


def test_folder_that_vanished_is_a_write_error_not_a_full_disk(store):
    writer = store.start_episode(SPEC)
    writer.append(step(0, SPEC))
    shutil.rmtree(store.root / "staging")
    (store.root / "staging").write_text("in the way")
    with pytest.raises(StoreWriteError):
        writer.flush()
    assert writer.received == 1
    store._shelf.live.clear()
