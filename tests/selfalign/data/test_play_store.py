"""The play store: what is written is read."""

import dataclasses

import numpy as np
import pytest

from selfalign.data.episode_layout import chunk_file
from selfalign.data.play_store import (
    DamagedEpisode,
    EpisodeRangeError,
    EpisodeReader,
    PlayStore,
    UnknownEpisode,
)
from selfalign.errors import StoreError
from tests.fakes.play_steps import assert_is_steps, small_spec, step
from tests.fakes.play_store import SPEC, open_store, record


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
