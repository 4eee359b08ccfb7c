"""Snapshots that are refused, with an error for each kind of fault."""

import dataclasses
import struct

import pytest
import torch
from safetensors.torch import save

from selfalign.align.snapshot import (
    SnapshotBadMetadata,
    SnapshotNormTooLarge,
    SnapshotNotFinite,
    SnapshotNotSafetensors,
    SnapshotTooBig,
    SnapshotTruncated,
    SnapshotWrongBase,
    SnapshotWrongDtype,
    SnapshotWrongKeys,
    SnapshotWrongShape,
    encode_snapshot,
    write_snapshot,
)
from selfalign.errors import SnapshotError
from tests.fakes.snapshots import (
    GOOD,
    META,
    W,
    decode,
    header_of,
    make_w,
    refused,
    with_header,
    with_meta,
    with_tensors,
)


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
    ("spec_sha256", "CD" * 32),
    ("spec_sha256", "cd" * 31),
    ("spec_sha256", 1),
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
