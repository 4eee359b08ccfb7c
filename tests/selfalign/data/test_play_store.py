"""The play store: what is written is read, room is kept, wrong use is refused."""

import dataclasses
import json
import os
import resource
import shutil
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from selfalign.data.episode_layout import CAPACITY, chunk_file, read_record, write_record
from selfalign.data.observation import ObservationMismatch
from selfalign.data.play_store import (
    BadPlayStep,
    DamagedEpisode,
    EpisodeClosed,
    EpisodeRangeError,
    EpisodeReader,
    PinnedEpisode,
    PlayStore,
    StoreFull,
    StoreLocked,
    StoreWriteError,
    UnknownEpisode,
)
from selfalign.errors import StoreError
from tests.fakes.play_steps import assert_is_steps, small_spec, step

SPEC = small_spec()


def open_store(root, **options) -> PlayStore:
    defaults = {"quota_bytes": 10**9, "min_free_bytes": 0, "block_steps": 4}
    return PlayStore(root, **{**defaults, **options})


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "play") as opened:
        yield opened


def record(store, steps, *, start=0, spec=SPEC):
    """Record and seal an episode of so many steps."""
    writer = store.start_episode(spec)
    for i in range(start, start + steps):
        writer.append(step(i, spec))
    return writer.seal()


@contextmanager
def files_of_at_most(nbytes):
    """Let the operating system refuse files beyond a size, as it refuses all on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Writing and reading.


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_sealed_episode_holds_every_step(tmp_path, codec):
    with open_store(tmp_path, codec=codec) as store:
        info = record(store, 14)
        assert (info.length, info.sealed, info.robot) == (14, True, "toy")
        reader = store.open(info.id)
        assert_is_steps(reader.read(0, 14), 0, 14, SPEC)
        assert_is_steps(reader.read(5, 11), 5, 11, SPEC)
        assert reader.spec == SPEC


def test_only_whole_blocks_are_durable_until_flushed(store):
    writer = store.start_episode(SPEC)
    durable = [writer.append(step(i, SPEC)) for i in range(6)]
    assert durable == [0, 0, 0, 4, 4, 4]
    assert writer.received == 6
    assert store.open(writer.id).length == 4
    assert writer.flush() == 6
    assert_is_steps(store.open(writer.id).read(0, 6), 0, 6, SPEC)


def test_block_goes_on_after_a_flush_in_its_middle(store):
    writer = store.start_episode(SPEC)
    for i in range(11):
        writer.append(step(i, SPEC))
        if i in {0, 4, 5, 9}:
            assert writer.flush() == i + 1
    info = writer.seal()
    assert_is_steps(store.open(info.id).read(0, 11), 0, 11, SPEC)


def test_flush_without_steps_writes_nothing(store):
    assert store.start_episode(SPEC).flush() == 0


def test_black_frames_are_chunks_not_gaps(store):
    black = dataclasses.replace(
        step(0, SPEC).observation,
        images={name: np.zeros_like(x) for name, x in step(0, SPEC).observation.images.items()},
    )
    writer = store.start_episode(SPEC)
    for i in range(4):
        writer.append(dataclasses.replace(step(i, SPEC), observation=black))
    info = writer.seal()
    assert not store.open(info.id).read(0, 4).images["front"].any()


def test_reader_never_sees_steps_above_the_watermark(store):
    writer = store.start_episode(SPEC)
    for i in range(5):
        writer.append(step(i, SPEC))
    reader = PlayStore.reader(store.root).open(writer.id)
    assert reader.length == 4
    with pytest.raises(EpisodeRangeError, match="which has 4 steps"):
        reader.read(0, 5)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 5), (5, 5)])
def test_rows_that_are_no_range_are_refused(store, start, stop):
    with pytest.raises(EpisodeRangeError):
        store.open(record(store, 4).id).read(start, stop)


def test_times_are_read_alone(store):
    writer = store.start_episode(SPEC)
    for i in range(8):
        writer.append(step(i, SPEC))
    reader = store.open(writer.id)
    chunk_file(reader.path, "images/front", 0).unlink()
    assert reader.read_times(2, 8).tolist() == [step(i, SPEC).t_ns for i in range(2, 8)]
    assert reader.read_times(3, 3).tolist() == []
    with pytest.raises(EpisodeRangeError):
        reader.read_times(0, 9)


def test_name_of_an_episode_can_be_chosen(store):
    writer = store.start_episode(SPEC, episode_id="20261124T060000000-abc_1.2")
    assert writer.id == "20261124T060000000-abc_1.2"
    writer.append(step(0, SPEC))
    for taken in (lambda: None, writer.seal):
        taken()
        with pytest.raises(StoreError, match="exists already"):
            store.start_episode(SPEC, episode_id=writer.id)


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 65, "a\nb"])
def test_name_that_is_no_plain_identifier_is_refused(store, name):
    with pytest.raises(StoreError, match="episode name"):
        store.start_episode(SPEC, episode_id=name)


def test_empty_range_is_an_empty_slice(store):
    assert len(store.open(record(store, 4).id).read(2, 2)) == 0


def test_reader_follows_the_episode_when_it_is_sealed(store):
    writer = store.start_episode(SPEC)
    for i in range(6):
        writer.append(step(i, SPEC))
    reader = store.open(writer.id)
    reader.read(0, 4)
    assert not reader.sealed
    writer.seal()
    assert reader.sealed
    assert_is_steps(reader.read(0, 6), 0, 6, SPEC)


def test_reader_of_a_deleted_episode_says_so(store):
    info = record(store, 4)
    reader = store.open(info.id)
    reader.read(0, 4)
    store.delete(info.id)
    with pytest.raises(UnknownEpisode):
        reader.read(0, 4)
    with pytest.raises(UnknownEpisode):
        _ = reader.length


def test_reader_tries_again_where_the_episode_moved_meanwhile(store):
    info = record(store, 4)
    gone = store.root / "staging" / f"{info.id}.zarr"
    answers = iter([gone, gone, store.open(info.id).path, gone])

    def locate(_id):
        return next(answers)

    reader = EpisodeReader(info.id, locate)
    answers = iter([gone, store.open(info.id).path])
    assert_is_steps(reader.read(0, 4), 0, 4, SPEC)
    for call in (lambda: reader.read(0, 4), lambda: reader.length):
        answers = iter([gone] * 3)
        with pytest.raises(DamagedEpisode, match="moved 3 times"):
            call()


def test_meta_is_kept(store):
    writer = store.start_episode(SPEC, meta={"task": "play", "w_version": 3})
    writer.append(step(0, SPEC))
    assert store.open(writer.seal().id).meta == {"task": "play", "w_version": 3}


@pytest.mark.parametrize("meta", [{"x": object()}, {"x": float("nan")}, {"x": "y" * 70_000}])
def test_meta_that_is_no_small_json_is_refused(store, meta):
    with pytest.raises(StoreError, match="meta"):
        store.start_episode(SPEC, meta=meta)
    assert store.episodes() == []


def test_episodes_of_several_robots_can_be_open_at_once(store):
    other = small_spec(name="other", height=3)
    writers = [store.start_episode(SPEC), store.start_episode(other)]
    for i in range(5):
        for writer in writers:
            writer.append(step(i, writer.spec))
    for writer in writers:
        assert_is_steps(store.open(writer.seal().id).read(0, 5), 0, 5, writer.spec)
    assert sorted(info.robot for info in store.episodes()) == ["other", "toy"]


def test_list_shows_open_and_sealed_oldest_first(store):
    first = record(store, 4)
    second = store.start_episode(SPEC)
    second.append(step(0, SPEC))
    listed = store.episodes()
    assert {(info.id, info.sealed, info.length) for info in listed} == {
        (first.id, True, 4),
        (second.id, False, 0),
    }
    assert [info.id for info in listed] == sorted(info.id for info in listed)


def test_anyone_with_zarr_can_read_an_episode(store):
    import zarr

    info = record(store, 6)
    path = store.open(info.id).path
    group = zarr.open_group(path, mode="r")
    assert group["state"].shape == (6, 3)
    assert group["images/front"][5, 0, 0, 0] == 6
    assert group.attrs["length"] == 6


def test_size_is_that_of_the_files(store):
    info = record(store, 9)
    path = store.open(info.id).path
    files = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    # The number itself is part of the metadata, whose size it changes by a few digits.
    assert abs(info.bytes - files) < 100
    assert store.used_bytes() == info.bytes


def test_blocks_flushed_to_the_device_read_the_same(tmp_path):
    with open_store(tmp_path, fsync_blocks=True) as store:
        info = record(store, 5)
        assert_is_steps(store.open(info.id).read(0, 5), 0, 5, SPEC)


def test_jpeg_is_close_and_smaller(tmp_path):
    pytest.importorskip("simplejpeg")
    spec = small_spec(height=32, width=40)
    slope = np.linspace(0, 255, 32 * 40 * 3).reshape(32, 40, 3).astype(np.uint8)
    images = {"front": slope, "wrist": np.full((4, 4, 3), 9, np.uint8)}
    sizes = {}
    for codec in ("raw", "jpeg"):
        with open_store(tmp_path / codec, codec=codec) as store:
            writer = store.start_episode(spec)
            for i in range(6):
                seen = dataclasses.replace(step(i, spec).observation, images=images)
                writer.append(dataclasses.replace(step(i, spec), observation=seen))
            info = writer.seal()
            got = store.open(info.id).read(1, 6).images["front"]
            assert got.shape == (5, 32, 40, 3)
            # Quality 95 on a smooth picture.
            assert np.abs(got.astype(int) - slope).mean() < 3
            sizes[codec] = info.bytes
    assert sizes["jpeg"] < sizes["raw"] / 2


# Wrong steps.


def changed(index=1, **changes):
    return dataclasses.replace(step(index, SPEC), **changes)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (changed(action=np.zeros(3, np.float32)), r"float32 array \[2\]"),
        (changed(action=np.zeros(2)), "float64"),
        (changed(action=[0, 0]), r"float32 array \[2\]"),
        (changed(action=np.float32([0, np.nan])), r"action\[1\] \(d1\)"),
        (changed(action=np.float32([0, np.inf])), "finite"),
        (changed(action=np.float32([500, 0])), "unit"),
        (changed(t_ns=-1), "t_ns"),
        (changed(t_ns=1.5), "t_ns"),
        (changed(t_ns=True), "t_ns"),
        (changed(t_ns=2**63), "t_ns"),
        (changed(t_ns=step(0, SPEC).t_ns), "start a new episode"),
        (changed(t_ns=step(0, SPEC).t_ns - 1), "start a new episode"),
    ],
)
def test_wrong_step_is_refused_and_the_episode_goes_on(store, wrong, said):
    writer = store.start_episode(SPEC)
    writer.append(step(0, SPEC))
    with pytest.raises(BadPlayStep, match=said):
        writer.append(wrong)
    assert writer.received == 1
    for i in range(1, 5):
        writer.append(step(i, SPEC))
    assert_is_steps(store.open(writer.seal().id).read(0, 5), 0, 5, SPEC)


def test_step_without_a_camera_is_refused(store):
    images = {"front": step(0, SPEC).observation.images["front"]}
    blind = dataclasses.replace(step(0, SPEC).observation, images=images)
    with pytest.raises(ObservationMismatch, match="'wrist' is missing"):
        store.start_episode(SPEC).append(changed(0, observation=blind))


def test_buffer_is_a_copy_of_the_step(store):
    mine = step(1, SPEC)
    writer = store.start_episode(SPEC)
    writer.append(mine)
    mine.observation.images["front"][:] = 77
    mine.action[:] = 0.77
    got = store.open(writer.seal().id).read(0, 1)
    assert got.images["front"][0, 0, 0, 0] == 2
    assert got.action[0, 0] != np.float32(0.77)


def test_instruction_that_changes_all_the_time_is_refused(tmp_path):
    store = open_store(tmp_path, block_steps=2000)
    writer = store.start_episode(SPEC)

    def say(i):
        words = dataclasses.replace(step(i, SPEC).observation, instruction=f"number {i}")
        writer.append(changed(i, observation=words))

    for i in range(1000):
        say(i)
    with pytest.raises(BadPlayStep, match="changed 1000 times"):
        say(1000)
    store.close()


def test_episode_without_steps_is_discarded(store):
    info = store.start_episode(SPEC).seal()
    assert (info.length, info.sealed) == (0, False)
    assert store.episodes() == []


def test_aborted_episode_is_gone(store):
    writer = store.start_episode(SPEC)
    for i in range(5):
        writer.append(step(i, SPEC))
    writer.abort()
    writer.abort()
    assert store.episodes() == []
    assert store.used_bytes() == 0


@pytest.mark.parametrize("end", ["seal", "abort"])
@pytest.mark.parametrize("call", ["append", "flush", "seal"])
def test_ended_episode_takes_nothing_more(store, end, call):
    writer = store.start_episode(SPEC)
    writer.append(step(0, SPEC))
    getattr(writer, end)()
    with pytest.raises(EpisodeClosed):
        writer.append(step(1, SPEC)) if call == "append" else getattr(writer, call)()


def test_capacity_ends_the_episode_clearly(store):
    writer = store.start_episode(SPEC)
    writer._taken = CAPACITY
    with pytest.raises(StoreFull, match="capacity"):
        writer.append(step(0, SPEC))
    writer._taken = 0


# Room.


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


# Use by others.


def test_second_writer_is_refused_and_told_who_writes(tmp_path):
    with open_store(tmp_path), pytest.raises(StoreLocked, match=f"pid {os.getpid()}"):
        open_store(tmp_path)
    open_store(tmp_path).close()


def test_reader_needs_no_lock_and_sees_new_episodes(store):
    reader = PlayStore.reader(store.root)
    assert reader.episodes() == []
    info = record(store, 5)
    assert reader.episodes() == [info]
    assert_is_steps(reader.open(info.id).read(0, 5), 0, 5, SPEC)
    assert reader.used_bytes() == info.bytes
    assert reader.free_bytes() > 0


def test_reader_of_a_store_that_does_not_exist_yet_sees_nothing(tmp_path):
    reader = PlayStore.reader(tmp_path / "later" / "play")
    assert reader.episodes() == []
    assert reader.free_bytes() > 0
    assert not (tmp_path / "later").exists()


def test_pin_of_a_reader_holds_for_the_writer(store):
    info = record(store, 4)
    reader = PlayStore.reader(store.root)
    reader.pin(info.id)
    assert store.episodes()[0].pinned
    with pytest.raises(PinnedEpisode, match="unpin"):
        store.delete(info.id)
    reader.unpin(info.id)
    store.delete(info.id)
    assert store.episodes() == []


@pytest.mark.parametrize("name", ["", ".", "..", "../episodes", "a/b", "x" * 65, "absent", "\0"])
def test_unknown_episode_is_refused(store, name):
    for call in (store.open, store.pin, store.delete):
        with pytest.raises(UnknownEpisode):
            call(name)
    store.unpin(name)


def test_episode_being_written_cannot_be_deleted(store):
    writer = store.start_episode(SPEC)
    with pytest.raises(UnknownEpisode, match="sealed"):
        store.delete(writer.id)
    writer.abort()


def test_closing_seals_what_is_open(tmp_path):
    with open_store(tmp_path) as store:
        writer = store.start_episode(SPEC)
        for i in range(5):
            writer.append(step(i, SPEC))
        empty = store.start_episode(SPEC)
    listed = PlayStore.reader(tmp_path).episodes()
    assert [(info.id, info.length, info.sealed) for info in listed] == [(writer.id, 5, True)]
    assert empty.id not in {info.id for info in listed}


def test_what_cannot_be_sealed_at_closing_waits_for_recovery(tmp_path):
    store = open_store(tmp_path)
    writer = store.start_episode(SPEC)
    for i in range(4):
        writer.append(step(i, SPEC))
    with files_of_at_most(10):
        store.close()
    with open_store(tmp_path) as store:
        assert store.recovery.sealed == (writer.id,)
        assert_is_steps(store.open(writer.id).read(0, 4), 0, 4, SPEC)


def test_jpeg_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(StoreError, match="extra `jpeg`"):
        open_store(tmp_path, codec="jpeg")


def test_closed_store_starts_nothing(tmp_path):
    store = open_store(tmp_path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.start_episode(SPEC)


@pytest.mark.parametrize(
    "wrong", [{"quota_bytes": 0}, {"min_free_bytes": -1}, {"block_steps": 0}, {"block_steps": 5000}]
)
def test_impossible_parameter_is_refused(tmp_path, wrong):
    with pytest.raises(StoreError, match="expected"):
        open_store(tmp_path, **wrong)


def test_unknown_codec_is_refused(tmp_path):
    with pytest.raises(StoreError, match="'zstd'"):
        open_store(tmp_path, codec="webp")
    open_store(tmp_path).close()


def test_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot hold"):
        open_store(tmp_path / "file")


# Damage on disk.


def test_missing_chunk_is_an_error_not_black_frames(store):
    info = record(store, 8)
    reader = store.open(info.id)
    chunk_file(reader.path, "images/front", 1).unlink()
    assert_is_steps(reader.read(0, 4), 0, 4, SPEC)
    with pytest.raises(DamagedEpisode, match="missing"):
        reader.read(3, 5)


@pytest.mark.parametrize("name", ["state", "action", "t_ns"])
def test_flipped_bit_in_a_number_is_an_error(store, name):
    reader = store.open(record(store, 4).id)
    file = chunk_file(reader.path, name, 0)
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedEpisode, match=name):
        reader.read(0, 4)


@pytest.mark.parametrize("codec", ["raw", "zstd", "jpeg"])
def test_truncated_image_chunk_is_an_error(tmp_path, codec):
    if codec == "jpeg":
        pytest.importorskip("simplejpeg")
    with open_store(tmp_path, codec=codec) as store:
        reader = store.open(record(store, 4).id)
        file = chunk_file(reader.path, "images/front", 0)
        file.write_bytes(file.read_bytes()[:-3])
        with pytest.raises(DamagedEpisode, match="images/front"):
            reader.read(0, 4)


def test_missing_array_is_an_error(store):
    reader = store.open(record(store, 4).id)
    (reader.path / "state" / "zarr.json").unlink()
    with pytest.raises(DamagedEpisode, match="'state'"):
        reader.read(0, 4)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"attributes": {"length": 3}}'])
def test_episode_without_its_record_is_left_out_of_the_list(store, text):
    good, bad = record(store, 4), record(store, 4)
    (store.open(bad.id).path / "zarr.json").write_text(text)
    fresh = PlayStore.reader(store.root)
    assert [info.id for info in fresh.episodes()] == [good.id]
    with pytest.raises(DamagedEpisode):
        fresh.open(bad.id)


def test_episode_under_a_wrong_name_is_left_out_of_the_list(store):
    path = store.open(record(store, 4).id).path
    path.rename(path.with_name("20200101T000000000-moved.zarr"))
    assert PlayStore.reader(store.root).episodes() == []


def test_later_writers_may_add_attributes(store):
    info = record(store, 4)
    file = store.open(info.id).path / "zarr.json"
    node = json.loads(file.read_text())
    node["attributes"]["invented_later"] = 1
    file.write_text(json.dumps(node))
    assert PlayStore.reader(store.root).episodes() == [info]


def test_record_survives_a_round_trip(store):
    path = store.open(record(store, 4).id).path
    before = read_record(path)
    write_record(path, before, fsync=True)
    assert read_record(path) == before
