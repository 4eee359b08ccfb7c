"""The ring: nothing lost, nothing reordered, room given back only when asked."""

import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.ring import RingFull, RingMemory, RingReader, RingWriter


@pytest.fixture
def memory():
    made = RingMemory.create(4096)
    yield made
    made.close()


def test_records_come_out_as_they_went_in(memory: RingMemory) -> None:
    writer, reader = RingWriter(memory), RingReader(memory)
    writer.push(1, b"one")
    writer.push(2, b"")
    assert [(r.kind, r.payload) for r in reader.read()] == [(1, b"one"), (2, b"")]
    assert list(reader.read()) == []


def test_full_ring_refuses_until_room_is_given_back(memory: RingMemory) -> None:
    writer, reader = RingWriter(memory), RingReader(memory)
    for _ in range(4):
        writer.push(1, bytes(1000))
    with pytest.raises(RingFull):
        writer.push(1, bytes(1000))
    records = list(reader.read())
    with pytest.raises(RingFull):
        writer.push(1, bytes(1000))
    reader.commit(records[1].end)
    writer.push(1, b"x" * 1000)
    assert [record.payload[:1] for record in reader.read()] == [b"x"]


def test_a_new_reader_starts_at_what_was_not_committed(memory: RingMemory) -> None:
    writer, first = RingWriter(memory), RingReader(memory)
    for number in range(5):
        writer.push(number, b"")
    records = list(first.read())
    first.commit(records[1].end)
    assert [record.kind for record in RingReader(memory).read()] == [2, 3, 4]


def test_a_record_that_could_never_fit_is_refused(memory: RingMemory) -> None:
    with pytest.raises(ValueError, match="at most 1024"):
        RingWriter(memory).push(1, bytes(1025))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=1024), st.booleans()), max_size=60))
def test_any_sequence_survives_the_wrap(steps: list[tuple[bytes, bool]]) -> None:
    memory = RingMemory.create(4096)
    writer, reader = RingWriter(memory), RingReader(memory)
    sent: list[bytes] = []
    got: list[bytes] = []
    for payload, drain_now in steps:
        drain = drain_now
        try:
            writer.push(7, payload[:3], memoryview(payload)[3:])
            sent.append(payload)
        except RingFull:
            drain = True
        if drain:
            got += [bytes(record.payload) for record in reader.read()]
            reader.commit(reader.position)
    got += [bytes(record.payload) for record in reader.read()]
    memory.close()
    assert got == sent


def test_many_writers_one_reader() -> None:
    memory = RingMemory.create(1 << 16)
    writer, reader = RingWriter(memory), RingReader(memory)
    barrier = threading.Barrier(4)

    def write(kind: int) -> None:
        barrier.wait()
        for number in range(100):
            writer.push(kind, number.to_bytes(4, "little"))

    threads = [threading.Thread(target=write, args=(kind,)) for kind in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = list(reader.read())
    memory.close()
    for kind in range(4):
        numbers = [int.from_bytes(r.payload, "little") for r in records if r.kind == kind]
        assert numbers == list(range(100))


def test_another_process_reads_by_the_descriptor_alone(memory: RingMemory) -> None:
    RingWriter(memory).push(3, b"hello")
    code = (
        "import sys; from server.ring import RingMemory, RingReader;"
        "m = RingMemory(int(sys.argv[1])); print([bytes(r.payload) for r in RingReader(m).read()])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(memory.descriptor)],
        pass_fds=[memory.descriptor],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert out.stdout.strip() == "[b'hello']"


def test_a_record_is_a_view_that_outlives_the_close_of_its_memory() -> None:
    memory = RingMemory.create(4096)
    writer, reader = RingWriter(memory), RingReader(memory)
    writer.push(1, b"ab", b"cd")
    record = next(reader.read())
    memory.close()
    assert bytes(record.payload) == b"abcd"
    assert record.payload.readonly is False, "not a copy"


def test_closing_leaves_no_descriptor() -> None:
    memory = RingMemory.create(4096)
    descriptor = memory.descriptor
    memory.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
