"""The play store: episodes that are asked to be deleted, and those that must stay."""

import subprocess
import sys
from pathlib import Path

import pytest

from selfalign.data.play_store import EpisodeInUse, PlayStore, StoreFull, UnknownEpisode
from selfalign.errors import StoreError
from tests.fakes.play_steps import assert_is_steps, step
from tests.fakes.play_store import SPEC, files_of_at_most, open_store, record
from tests.selfalign.data import crash_writer

ROOT = Path(__file__).parents[3]


def names(store) -> list[str]:
    return [info.id for info in store.episodes()]


def open_episode(store, steps):
    writer = store.start_episode(SPEC)
    for i in range(steps):
        writer.append(step(i, SPEC))
    return writer


def test_deleted_episodes_are_gone_and_their_room_is_free_at_once(store):
    first, kept, last = (record(store, 4) for _ in range(3))
    used = store.used_bytes()

    deleted = store.delete(last.id, first.id, last.id)

    assert deleted == (last, first)
    assert names(store) == [kept.id]
    assert store.used_bytes() == used - first.bytes - last.bytes
    assert list((store.root / "trash").iterdir()) == []


def test_all_are_deleted_or_none(store):
    ids = [record(store, 4).id for _ in range(2)]
    with pytest.raises(UnknownEpisode, match="absent"):
        store.delete(*ids, "absent")
    assert names(store) == ids


def test_an_episode_being_recorded_must_be_sealed_first(store):
    other, writer = record(store, 4), open_episode(store, 5)
    with pytest.raises(EpisodeInUse, match="being recorded; seal it first") as caught:
        store.delete(other.id, writer.id)
    assert (caught.value.episode, caught.value.use) == (writer.id, "recorded")
    assert_is_steps(store.open(writer.seal().id).read(0, 5), 0, 5, SPEC)
    assert names(store) == [other.id, writer.id]


def test_an_episode_that_waits_to_be_resumed_is_not_deleted(tmp_path):
    with open_store(tmp_path) as store:
        name = open_episode(store, 5).id
        store._shelf.live.clear()
    with open_store(tmp_path, resume=frozenset({name})) as store:
        with pytest.raises(EpisodeInUse, match="unfinished"):
            store.delete(name)
        store.resume_episode(name).seal()
        store.delete(name)
        assert names(store) == []


def test_a_held_episode_is_neither_deleted_nor_makes_room(tmp_path):
    with open_store(tmp_path) as store:
        old, _ = record(store, 40), record(store, 40)
    with open_store(tmp_path, quota_bytes=old.bytes + 70_000) as store:
        store.hold([old.id])
        with pytest.raises(EpisodeInUse, match="being read"):
            store.delete(old.id)
        store.start_episode(SPEC).abort()
        assert names(store) == [old.id], "the oldest that is not held made room"
        store.hold([])
        store.delete(old.id)
        assert names(store) == []


def test_a_pinned_episode_is_deleted_on_demand_and_leaves_no_pin(store):
    info = record(store, 4)
    store.pin(info.id)
    with pytest.raises(EpisodeInUse, match="unpin"):
        store.delete(info.id)
    store.delete(info.id, pinned=True)
    assert names(store) == []
    assert list((store.root / "pins").iterdir()) == []


def test_a_full_store_says_what_fills_it_and_what_helps(tmp_path):
    with open_store(tmp_path) as store:
        pinned, held = record(store, 40), record(store, 40)
        store.pin(pinned.id)
    (tmp_path / "quarantine" / "blob").write_bytes(bytes(300_000))
    with open_store(tmp_path, quota_bytes=100_000) as store:
        store.hold([held.id])
        with pytest.raises(StoreFull) as caught:
            store.start_episode(SPEC)
    message = str(caught.value)
    size = f"{pinned.bytes / 1e6:.1f} MB"
    for words in (
        f"unpin or delete pinned episodes ({size})",
        f"let the alignment end that reads episodes ({size})",
        "empty quarantine/ and restart (0.3 MB)",
        "raise the quota",
    ):
        assert words in message
    assert "being recorded" not in message


def test_deleting_makes_room_where_the_disk_is_full_of_what_is_being_recorded(tmp_path):
    with open_store(tmp_path, quota_bytes=90_000) as store:
        writer = open_episode(store, 8)
        more = (writer.append(step(i, SPEC)) for i in range(8, 2000))
        with pytest.raises(StoreFull, match=r"end what is being recorded .* raise the quota"):
            list(more)
        store.delete(writer.seal(discard_pending=True).id)
        assert store.used_bytes() == 0
        open_episode(store, 8).seal()


def test_files_are_removed_later_where_that_is_asked_for(store):
    ids = [record(store, 4).id for _ in range(2)]
    store.delete(*ids, sweep=False)
    assert store.used_bytes() == 0
    assert names(store) == []
    trash = store.root / "trash"
    assert len(list(trash.iterdir())) == 2
    assert store.sweep()
    assert not store.sweep()
    assert not store.sweep()
    assert list(trash.iterdir()) == []


def test_a_disk_short_of_room_is_swept_before_play_is_given_up(tmp_path):
    def free(root):
        return 10**6 - 10**5 * len(list((root / "trash").iterdir()))

    with open_store(tmp_path, min_free_bytes=850_000, disk_free=free) as store:
        gone, kept = record(store, 4), record(store, 4)
        store.delete(gone.id, sweep=False)
        writer = open_episode(store, 8)
        assert names(store) == [kept.id, writer.id]
        assert list((tmp_path / "trash").iterdir()) == []
        writer.seal()


def test_a_disk_that_refuses_is_reported(store):
    info = record(store, 4)
    (store.root / "trash").rmdir()
    with pytest.raises(StoreError, match="refused to delete"):
        store.delete(info.id)
    assert names(store) == [info.id]


def test_a_disk_that_refuses_to_make_room_is_reported(tmp_path):
    with open_store(tmp_path) as store:
        old = record(store, 40)
    with open_store(tmp_path, quota_bytes=old.bytes + 70_000) as store:
        writer = open_episode(store, 3)
        (tmp_path / "trash").rmdir()
        with pytest.raises(StoreError, match="refused to delete"):
            [writer.append(step(i, SPEC)) for i in range(3, 2000)]
        (tmp_path / "trash").mkdir()
        length = writer.received
        assert_is_steps(store.open(writer.seal().id).read(0, length), 0, length, SPEC)


def test_what_was_deleted_before_the_disk_refused_is_gone(store):
    ids = [record(store, 4).id for _ in range(3)]
    # A folder that is not empty is in the way.
    (store.root / "trash" / f"{ids[1]}.zarr" / "x").mkdir(parents=True)
    with pytest.raises(StoreError, match="refused to delete"):
        store.delete(*ids)
    assert names(store) == ids[1:]


def test_deleting_needs_no_room(store):
    info = record(store, 4)
    with files_of_at_most(0):
        store.delete(info.id)
    assert names(store) == []


def test_whoever_dies_while_deleting_leaves_each_episode_whole_or_gone(tmp_path):
    line = [sys.executable, "-m", crash_writer.__name__, "delete", str(tmp_path), "13"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    instants = int(done.stdout.split()[-1])
    assert instants > 40, "changes of the file system go unseen"
    lengths = set()
    for number in range(1, instants + 1, 13):
        root = tmp_path / str(number)
        with open_store(root) as store:
            left = store.episodes()
            for info in left:
                assert_is_steps(store.open(info.id).read(0, 6), 0, 6, crash_writer.SPEC)
            assert list((root / "trash").iterdir()) == []
            assert list((root / "quarantine").iterdir()) == []
            assert [path.name for path in (root / "pins").iterdir()] == [
                info.id for info in left if info.pinned
            ]
            lengths.add(len(left))
    assert lengths >= {1, 3}, "some died before the first was gone, some after the last"


def test_a_reader_that_has_it_open_is_told_that_it_was_deleted(store):
    info = record(store, 4)
    reader = PlayStore.reader(store.root).open(info.id)
    store.delete(info.id)
    with pytest.raises(UnknownEpisode):
        reader.read(0, 4)
