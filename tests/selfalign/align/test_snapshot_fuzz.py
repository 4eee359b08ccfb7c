"""Snapshots of arbitrary bytes: a snapshot or a SnapshotError, never a crash."""

import dataclasses
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.align.snapshot import (
    SnapshotMeta,
)
from selfalign.errors import SnapshotError
from tests.fakes.snapshots import (
    BASE,
    GOOD,
    W,
    decode,
    header_of,
    with_header,
    with_meta,
)


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
