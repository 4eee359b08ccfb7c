"""The play store: damage on disk is an error, never wrong data."""

import json

import pytest

from selfalign.data.episode_layout import chunk_file, read_record, write_record
from selfalign.data.play_store import (
    DamagedEpisode,
    PlayStore,
)
from tests.fakes.play_steps import assert_is_steps
from tests.fakes.play_store import SPEC, open_store, record


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
