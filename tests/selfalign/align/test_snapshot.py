"""Snapshots: whole and verified, or refused with the reason."""

import dataclasses
import json
import os
import stat
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from selfalign.align import snapshot
from selfalign.align.snapshot import (
    SnapshotBadMetadata,
    SnapshotExists,
    SnapshotMeta,
    SnapshotNormTooLarge,
    SnapshotNotFinite,
    SnapshotNotSafetensors,
    SnapshotTooBig,
    SnapshotTruncated,
    SnapshotWrongBase,
    SnapshotWrongDtype,
    SnapshotWrongKeys,
    SnapshotWrongShape,
    decode_snapshot,
    encode_snapshot,
    read_snapshot,
    write_snapshot,
)
from selfalign.errors import SnapshotError
from selfalign.model.weights import FastWeights

BASE = "ab" * 32
META = SnapshotMeta(
    version=17,
    parent=16,
    robot="sim_panda",
    base_sha256=BASE,
    session="s-3",
    created_at="2026-11-24T06:00:00Z",
    steps=50,
    play_steps=128,
    metrics={"alignment/total": 0.25},
    note="after moving the camera",
)


def make_w(*, layers=(0, 2), heads=2, dim=4, seed=0) -> FastWeights:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(layers), heads)
    return FastWeights(
        0.02 * torch.randn(*shape, dim, dim, generator=generator),
        0.02 * torch.randn(*shape, 1, dim, generator=generator),
        layers,
    )


W = make_w()
GOOD = encode_snapshot(W, META)


def decode(data, **changes):
    options = {"like": W, "base_sha256": BASE, "max_norm": 10.0} | changes
    return decode_snapshot(data, **options)


def header_of(data) -> dict:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


def with_header(header, tensors=None) -> bytes:
    """Return a file of the good tensors under another header (text or object)."""
    (length,) = struct.unpack("<Q", GOOD[:8])
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return (
        struct.pack("<Q", len(text)) + text + (GOOD[8 + length :] if tensors is None else tensors)
    )


def with_meta(**changes) -> bytes:
    header = header_of(GOOD)
    fields = json.loads(header["__metadata__"]["selfalign"]) | changes
    header["__metadata__"]["selfalign"] = json.dumps(fields)
    return with_header(header)


def with_tensors(**changes) -> bytes:
    """Return a file with tensors replaced; None takes one away."""
    tensors = load(GOOD) | {name.replace("_", "."): x for name, x in changes.items()}
    kept = {name: x for name, x in tensors.items() if x is not None}
    return save(kept, metadata=header_of(GOOD)["__metadata__"])


def refused(data, error, said=None, **changes):
    with pytest.raises(error, match=said) as caught:
        decode(data, **changes)
    assert type(caught.value) is error


# Good files.


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


# Bad files, one error for each kind.


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20, len(GOOD) - 1])
def test_truncated_file_is_refused(length):
    refused(GOOD[:length], SnapshotTruncated)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x95" + GOOD,
        b"PK\x03\x04" + GOOD,
        struct.pack("<Q", 2**63) + GOOD[8:],
        struct.pack("<Q", 2**64 - 1) + GOOD[8:],
        struct.pack("<Q", 0) + GOOD[8:],
        with_header("not json"),
        with_header("[1, 2]"),
        with_header("[" * 100_000),
        with_header('{"a": 1, "a": 1}'),
        with_header("\x00" * 40),
    ],
)
def test_other_formats_are_refused(data):
    refused(data, SnapshotNotSafetensors, "not a safetensors file")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"dtype": "F32", "shape": [2, 4, 4]},
        {"dtype": "F32", "shape": [2, 4, 4], "data_offsets": None},
        {"dtype": "F32", "shape": [2, 4, 4], "data_offsets": [0]},
        {"dtype": "F32", "shape": [2, 4, 4], "data_offsets": [-1, 127]},
        {"dtype": "F32", "shape": [2, 4, 4], "data_offsets": [0.0, 128.0]},
        {"dtype": "F32", "shape": [2, 4, 4], "data_offsets": ["0", "128"]},
        {"dtype": "F32", "shape": [2, 4, 4], "data_offsets": [True, False]},
        {"dtype": "F32", "shape": [2, 4, 4], "data_offsets": [0, 2**62]},
        {"dtype": "F32", "shape": [2, 4, 4], "data_offsets": [64, 192]},
    ],
)
def test_header_that_describes_no_tensor_is_refused(entry):
    refused(with_header(header_of(GOOD) | {"ttt.0.W1": entry}), SnapshotNotSafetensors)


def test_tensors_that_overlap_are_refused():
    header = header_of(GOOD)
    header["ttt.2.W1"]["data_offsets"] = header["ttt.0.W1"]["data_offsets"]
    refused(with_header(header), SnapshotNotSafetensors, "overlap")


def test_bytes_after_the_tensors_are_refused():
    refused(GOOD + b"x", SnapshotTooBig, "expected")


@pytest.mark.parametrize("name", ["ttt_0_W1", "ttt_2_b1"])
def test_missing_tensor_is_named(name):
    refused(
        with_tensors(**{name: None}), SnapshotWrongKeys, f"'{name.replace('_', '.')}' is missing"
    )


def test_extra_tensor_is_named():
    refused(with_tensors(evil=torch.zeros(1)), SnapshotWrongKeys, "'evil' is not part of W")


def test_w_of_other_layers_is_refused():
    refused(encode_snapshot(make_w(layers=(0, 1)), META), SnapshotWrongKeys)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_other_dtype_is_refused(dtype):
    data = with_tensors(ttt_0_W1=torch.zeros(2, 4, 4, dtype=dtype))
    refused(data, SnapshotWrongDtype, r"ttt\.0\.W1.*expected F32")


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 16), (1, 2, 4, 4), (0, 4, 4)])
def test_other_shape_is_refused(shape):
    data = with_tensors(ttt_0_W1=torch.zeros(shape))
    refused(data, SnapshotWrongShape, r"expected \[2, 4, 4\]")


def test_shape_that_only_equals_in_python_is_refused():
    header = header_of(GOOD)
    header["ttt.0.W1"]["shape"] = [2.0, 4.0, 4.0]
    with pytest.raises(SnapshotError):
        decode(with_header(header))


def test_w_of_a_larger_model_is_refused():
    refused(encode_snapshot(make_w(dim=8), META), SnapshotWrongShape)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_tensor_is_named(value):
    tensor = torch.zeros(2, 1, 4)
    tensor[1, 0, 2] = value
    refused(with_tensors(ttt_2_b1=tensor), SnapshotNotFinite, r"ttt\.2\.b1")


@pytest.mark.parametrize("limit", [0.0, 0.01, float("nan")])
def test_norm_beyond_the_limit_is_refused(limit):
    refused(GOOD, SnapshotNormTooLarge, "norm of W", max_norm=limit)


def test_norm_that_overflows_float32_is_measured():
    data = encode_snapshot(W.map(lambda x: x.sign() * 1e30), META)
    refused(data, SnapshotNormTooLarge, "e\\+30")


def test_other_base_is_refused_before_anything_about_its_tensors():
    data = encode_snapshot(make_w(dim=8), META)
    refused(data, SnapshotWrongBase, "align again", base_sha256="cd" * 32)


def test_file_without_our_metadata_is_refused():
    refused(save(dict(W.named())), SnapshotBadMetadata, "'selfalign'")
    refused(save(dict(W.named()), metadata={"format": "pt"}), SnapshotBadMetadata)


@pytest.mark.parametrize("value", [None, 3, [], {"selfalign": 3}, {"selfalign": "{"}])
def test_metadata_that_are_no_text_of_an_object_are_refused(value):
    refused(with_header(header_of(GOOD) | {"__metadata__": value}), SnapshotBadMetadata)


BAD_FIELDS = [
    ("version", -1),
    ("version", 1.5),
    ("version", True),
    ("version", "1"),
    ("version", 2**60),
    ("version", None),
    ("parent", -1),
    ("robot", "../../etc"),
    ("robot", ""),
    ("robot", None),
    ("base_sha256", "not a digest"),
    ("session", "a/b"),
    ("created_at", "yesterday"),
    ("created_at", "2026-11-24T06:00:00"),
    ("created_at", "2026-11-24T06:00:00+02:00"),
    ("created_at", 0),
    ("steps", -1),
    ("play_steps", "many"),
    ("metrics", {"a": float("nan")}),
    ("metrics", {"a": float("inf")}),
    ("metrics", {"a": "1"}),
    ("metrics", [1]),
    ("metrics", {str(i): 0.0 for i in range(300)}),
    ("note", "x" * 5000),
    ("note", "\ud800"),
    ("note", None),
    ("format", 2),
    ("invented", 1),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_wrong_field_of_the_metadata_is_refused(field, value):
    refused(with_meta(**{field: value}), SnapshotBadMetadata, "metadata")


@pytest.mark.parametrize(
    ("field", "value"), [x for x in BAD_FIELDS if x[0] not in {"format", "invented"}]
)
def test_wrong_metadata_are_not_written_either(field, value):
    with pytest.raises(SnapshotBadMetadata):
        encode_snapshot(W, dataclasses.replace(META, **{field: value}))


def test_metadata_that_are_no_json_are_not_written():
    with pytest.raises(SnapshotBadMetadata):
        encode_snapshot(W, dataclasses.replace(META, metrics={"a": object()}))


def test_metadata_too_large_to_be_read_again_are_not_written():
    metrics = {"x" * 10_000 + str(i): 0.0 for i in range(200)}
    with pytest.raises(SnapshotBadMetadata, match="at most"):
        encode_snapshot(W, dataclasses.replace(META, metrics=metrics))


def test_w_that_is_not_float32_is_not_written():
    with pytest.raises(SnapshotWrongDtype, match="float64"):
        encode_snapshot(W.map(lambda x: x.double()), META)


def test_not_finite_w_is_not_written(tmp_path):
    bad = W.map(lambda x: x * float("nan"))
    with pytest.raises(SnapshotNotFinite):
        write_snapshot(tmp_path / "w", bad, META)
    assert list(tmp_path.iterdir()) == []


# Whatever the bytes: a snapshot or a SnapshotError.


def survives(data):
    try:
        found = decode(data)
    except SnapshotError:
        return
    assert found.w.shapes() == W.shapes()
    assert found.meta.base_sha256 == BASE
    assert found.w.W1.isfinite().all()


@settings(deadline=None, max_examples=80)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_changed_byte_never_crashes(position, change):
    data = bytearray(GOOD)
    data[position] ^= change
    survives(bytes(data))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.binary(max_size=40))
def test_replaced_stretch_never_crashes(start, length, patch):
    survives(GOOD[:start] + patch + GOOD[start + length :])


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_crash(data):
    survives(data)
    survives(struct.pack("<Q", len(data)) + data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(header_of(GOOD))), JSON)
def test_arbitrary_header_entry_never_crashes(name, value):
    survives(with_header(header_of(GOOD) | {name: value}))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([field.name for field in dataclasses.fields(SnapshotMeta)]), JSON)
def test_arbitrary_metadata_never_crash(name, value):
    survives(with_meta(**{name: value}))


# Files.


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
