from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.wire.codec import MAX_DEPTH, dump_json, load_json, pack, unpack
from server.wire.problems import WireError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for reader in (unpack, load_json):
        with contextlib.suppress(WireError):
            reader(data)


@given(PLAIN, st.data())
@settings(deadline=None, max_examples=100)
def test_a_truncated_message_is_refused(value: object, data: st.DataObject) -> None:
    whole = pack({"value": value, "image": np.zeros((2, 2, 3), np.uint8)})
    end = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(WireError) as refused:
        unpack(whole[:end])

    assert refused.value.code == "bad-message"


def test_the_refusal_of_a_truncated_message_says_how_long_it_was() -> None:
    with pytest.raises(WireError, match=r"not one whole msgpack message \(20 bytes\)"):
        unpack(pack({"image": np.zeros(100)})[:20])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack({"a": 1}) + b"\x00",
        b"\xdd\xff\xff\xff\xff",  # a list of 4 billion items
        b"\xdf\xff\xff\xff\xff",  # a map of 4 billion items
        b"\xc9\x7f\xff\xff\xff\x01",  # an extension of 2 GB
        msgpack.packb(msgpack.ExtType(5, b"data")),
        msgpack.packb({(1, 2): 3}),
        msgpack.packb({1: 2}),
        b"\xa2\xff\xfe",  # text that is not UTF-8
        b"\x91" * 5000 + b"\xc0",
    ],
)
def test_msgpack_that_is_not_ours_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1,", b"nul", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'{"a":}']
)
def test_json_that_is_not_whole_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="not valid JSON"):
        load_json(data)


def test_depth_has_a_limit() -> None:
    assert unpack(pack(_nested(MAX_DEPTH - 1))) == _nested(MAX_DEPTH - 1)
    for read, data in (
        (unpack, msgpack.packb(_nested(MAX_DEPTH + 1))),
        (load_json, json.dumps(_nested(MAX_DEPTH + 1))),
    ):
        with pytest.raises(WireError, match="nested deeper than 32"):
            read(data)


def test_json_never_holds_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"x": float("nan")})


def test_numpy_scalars_become_numbers_in_json() -> None:
    assert dump_json({"x": np.float32(0.5), "n": np.int64(3)}) == b'{"x":0.5,"n":3}'


def test_bytes_become_base64_in_json() -> None:
    assert json.loads(dump_json({"image": b"\xff\xd8"})) == {"image": "/9g="}


@pytest.mark.parametrize("write", [pack, dump_json])
def test_what_cannot_be_sent_is_named(write: object) -> None:
    with pytest.raises(TypeError, match="object cannot be sent"):
        write({"x": object()})  # type: ignore[operator]


def test_the_wire_is_light() -> None:
    code = (
        "import sys, server.wire.codec, server.wire.images, server.wire.messages, "
        "server.wire.operator, server.wire.problems;"
        "heavy = {'torch', 'fastapi', 'starlette', 'selfalign', 'zarr'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
