"""Snapshots: what is written is read, whole and verified."""

import dataclasses
import os
import stat
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from selfalign.align import snapshot
from selfalign.align.snapshot import (
    SnapshotExists,
    SnapshotNotFinite,
    SnapshotNotSafetensors,
    SnapshotTooBig,
    SnapshotTruncated,
    encode_snapshot,
    read_snapshot,
    write_snapshot,
)
from selfalign.errors import SnapshotError
from tests.fakes.snapshots import (
    BASE,
    GOOD,
    META,
    W,
    decode,
    make_w,
    with_tensors,
)


def test_decoded_snapshot_is_what_was_encoded():
    found = decode(GOOD)
    assert found.meta == META
    assert torch.equal(found.w.W1, W.W1)
    assert torch.equal(found.w.b1, W.b1)
    assert found.w.layers == W.layers
    assert found.nbytes == len(GOOD)


def test_same_content_gives_the_same_bytes_and_other_content_another_sha():
    assert encode_snapshot(make_w(), META) == GOOD
    other = encode_snapshot(W, dataclasses.replace(META, note=""))
    assert decode(other).sha256 != decode(GOOD).sha256


def test_any_safetensors_reader_can_open_it():
    assert torch.equal(load(GOOD)["ttt.2.W1"], W.W1[1])


def test_base_without_parent_or_session_is_a_snapshot_too():
    meta = dataclasses.replace(META, version=0, parent=None, session=None, metrics={})
    assert decode(encode_snapshot(W, meta)).meta == meta


def test_without_a_spec_the_file_is_what_it_was_before_specs_were_named():
    meta = dataclasses.replace(META, spec_sha256=None)
    data = encode_snapshot(W, meta)
    assert b"spec_sha256" not in data
    assert decode(data).meta == meta


def test_norm_below_the_limit_passes_and_no_limit_means_none():
    huge = encode_snapshot(W.map(lambda x: x * 1e30), META)
    assert decode(huge, max_norm=None).w.W1.abs().max() > 1e27
    decode(GOOD, max_norm=float(W.norm()) * 1.001)


def test_decoded_w_can_be_changed_without_changing_the_next():
    first = decode(GOOD)
    first.w.W1.zero_()
    assert torch.equal(decode(GOOD).w.W1, W.W1)


def test_gradients_are_not_saved():
    w = W.map(lambda x: x.clone().requires_grad_())
    assert not decode(encode_snapshot(w, META)).w.W1.requires_grad


def read(path, **changes):
    return read_snapshot(path, **({"like": W, "base_sha256": BASE, "max_norm": 10.0} | changes))


def test_written_file_reads_the_same(tmp_path):
    path = tmp_path / "000017.safetensors"
    written = write_snapshot(path, W, META)
    found = read(path)
    assert (found.meta, found.sha256, found.nbytes) == (META, written.sha256, written.nbytes)
    assert torch.equal(found.w.W1, W.W1)
    assert path.read_bytes() == GOOD


def test_only_the_snapshot_is_left_in_the_folder(tmp_path):
    write_snapshot(tmp_path / "w", W, META)
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    assert not stat.S_IMODE((tmp_path / "w").stat().st_mode) & 0o022


def test_snapshot_is_never_overwritten(tmp_path):
    path = tmp_path / "w"
    write_snapshot(path, W, META)
    with pytest.raises(SnapshotExists, match="new version"):
        write_snapshot(path, W, dataclasses.replace(META, version=18))
    assert path.read_bytes() == GOOD
    assert len(list(tmp_path.iterdir())) == 1


def test_same_snapshot_may_be_written_again(tmp_path):
    path = tmp_path / "w"
    assert write_snapshot(path, W, META).sha256 == write_snapshot(path, W, META).sha256


def test_disk_that_refuses_leaves_nothing(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="large"):
            write_snapshot(tmp_path / "w", W, META)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_a_snapshot_error_with_its_name(tmp_path):
    with pytest.raises(SnapshotError, match=r"gone.*No such file"):
        read(tmp_path / "gone")
    with pytest.raises(SnapshotError, match="cannot read"):
        read(tmp_path)


def test_error_of_a_file_keeps_its_kind_and_names_the_file(tmp_path):
    path = tmp_path / "w.safetensors"
    for data, error in [
        (b"", SnapshotTruncated),
        (GOOD[:-1], SnapshotTruncated),
        (GOOD + b"x", SnapshotTooBig),
        (with_tensors(ttt_0_W1=torch.full((2, 4, 4), torch.nan)), SnapshotNotFinite),
    ]:
        path.write_bytes(data)
        with pytest.raises(error, match=r"w\.safetensors"):
            read(path)


def test_file_is_not_read_beyond_a_header_that_is_wrong(tmp_path):
    # A sparse file of 1 TiB: reading it would not end well.
    path = tmp_path / "huge"
    path.write_bytes(GOOD)
    os.truncate(path, 1 << 40)
    with pytest.raises(SnapshotTooBig):
        read(path)
    path.write_bytes(struct.pack("<Q", 1 << 39))
    os.truncate(path, 1 << 40)
    with pytest.raises(SnapshotNotSafetensors):
        read(path)


def test_every_kind_of_refusal_is_a_snapshot_error():
    kinds = [x for name, x in vars(snapshot).items() if name.startswith("Snapshot")]
    errors = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(errors) == 12
    assert all(issubclass(kind, SnapshotError) for kind in errors)


def test_nothing_here_can_unpickle():
    # In safetensors nothing can run; this is about ours.
    for file in Path(snapshot.__file__).parent.glob("snapshot*.py"):
        source = file.read_text()
        assert "pickle" not in source
        assert "torch.load" not in source.replace("safetensors.torch.load", "")
