"""The play store: other readers and writers, closing, wrong use."""

import os
import sys

import pytest

from selfalign.data.play_store import (
    EpisodeInUse,
    PlayStore,
    StoreLocked,
    UnknownEpisode,
)
from selfalign.errors import StoreError
from tests.fakes.play_steps import assert_is_steps, step
from tests.fakes.play_store import SPEC, files_of_at_most, open_store, record


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
    with pytest.raises(EpisodeInUse, match="unpin"):
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


def test_only_what_was_recovered_is_reported(tmp_path, caplog):
    caplog.set_level("INFO", logger="selfalign.data.play_recovery")
    open_store(tmp_path).close()
    assert caplog.records == []
    (tmp_path / "staging" / "left-behind").mkdir()
    open_store(tmp_path).close()
    assert "discarded=('left-behind',)" in caplog.text
