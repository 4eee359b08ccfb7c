from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.wire.codec import dump_json, load_json, pack, unpack
from server.wire.problems import WireError

DTYPES = ["|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", "|b1"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@given(ARRAYS)
@settings(deadline=None, max_examples=60)
def test_an_array_survives_msgpack_bit_for_bit(array: np.ndarray) -> None:
    back = unpack(pack({"a": array}))["a"]

    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(ARRAYS)
@settings(deadline=None, max_examples=60)
def test_an_array_survives_json_bit_for_bit(array: np.ndarray) -> None:
    back = load_json(dump_json({"a": array}))["a"]

    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_a_view_that_is_not_contiguous_is_sent_in_its_own_order() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2]

    assert np.array_equal(unpack(pack(image)), image)
    assert np.array_equal(load_json(dump_json(image)), image)


def test_text_keys_are_read_too() -> None:
    sent = {"__ndarray__": True, "data": b"\x01\x02", "dtype": "|u1", "shape": [2]}

    assert unpack(pack({"a": sent}))["a"].tolist() == [1, 2]


def test_a_numpy_scalar_comes_back_as_a_number() -> None:
    assert unpack(pack({"x": np.float32(1.5), "n": np.int64(3)})) == {"x": 1.5, "n": 3}


def test_a_received_array_is_read_only() -> None:
    assert not unpack(pack(np.zeros(3))).flags.writeable


def _array(**changes: object) -> dict[bytes, object]:
    good: dict[bytes, object] = {
        b"__ndarray__": True,
        b"data": b"\0" * 8,
        b"dtype": "<f4",
        b"shape": [2],
    }
    return {**good, **{key.encode(): value for key, value in changes.items()}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": b"\0" * 7}, "needs 8 bytes, got 7"),
        ({"data": b""}, "needs 8 bytes, got 0"),
        ({"data": "text"}, "must be binary, got str"),
        ({"data": None}, "must be binary"),
        ({"dtype": "|O"}, "not supported; use one of"),
        ({"dtype": "|V4"}, "not supported"),
        ({"dtype": "<c8"}, "not supported"),
        ({"dtype": "(1000000,)<f4"}, "not supported"),
        ({"dtype": "<M8[ns]"}, "not supported"),
        ({"dtype": 4}, "not supported"),
        ({"dtype": b"|S4"}, "not supported"),
        ({"shape": [-1]}, "not a count"),
        ({"shape": [2.0]}, "not a count"),
        ({"shape": [True, 2]}, "not a count"),
        ({"shape": [2**40, 2**40]}, "not a count"),
        ({"shape": [2**20, 2**20]}, "needs 4398046511104 bytes"),
        ({"shape": 2}, "list of at most"),
        ({"shape": [1] * 7 + [2]}, "list of at most"),
    ],
)
def test_an_array_that_does_not_add_up_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(WireError, match=message) as refused:
        unpack(pack({"a": _array(**changes)}))

    assert refused.value.code == "bad-message"
    assert refused.value.status == 400


@pytest.mark.parametrize("member", ["data", "dtype", "shape"])
def test_an_array_without_a_member_is_refused(member: str) -> None:
    sent = _array()
    del sent[member.encode()]

    with pytest.raises(WireError):
        unpack(pack(sent))


@pytest.mark.parametrize(
    "text",
    [
        '{"__numpy__": "AAAA", "dtype": "<f4", "shape": [1]}',
        '{"__numpy__": "A", "dtype": "|u1", "shape": [1]}',
        '{"__numpy__": "!!!!", "dtype": "|u1", "shape": [3]}',
        '{"__numpy__": 3, "dtype": "|u1", "shape": [3]}',
        '{"__numpy__": "AAAA", "shape": [3]}',
        '{"__numpy__": "AAAA", "dtype": "|u1"}',
        '{"__numpy__": "AAAA", "dtype": "|O", "shape": [3]}',
    ],
)
def test_a_json_numpy_object_that_does_not_add_up_is_refused(text: str) -> None:
    with pytest.raises(WireError) as refused:
        load_json(text)

    assert refused.value.code == "bad-message"


def test_a_scalar_that_is_no_number_is_refused() -> None:
    with pytest.raises(WireError, match="not a supported number"):
        unpack(pack({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}))


@pytest.mark.parametrize("array", [np.array([object()]), np.zeros(2, "c8"), np.array(["text"])])
def test_an_array_of_no_numbers_is_not_sent(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        pack(array)
