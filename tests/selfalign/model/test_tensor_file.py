"""Files of tensors: the library reads what we write, we read what it writes, nothing is trusted."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model.tensor_file import Planned, TensorFile, write_tensors

TENSORS = {
    "wide": torch.arange(12.0).reshape(3, 4),
    "half": torch.arange(5).bfloat16(),
    "scalar": torch.tensor(3.0, dtype=torch.float64),
    "none": torch.zeros(0, 4),
    "float16": torch.arange(3).half(),
}


def planned(tensor: Tensor) -> Planned:
    return Planned(tensor.dtype, tuple(tensor.shape), lambda: (tensor,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "a.safetensors", {k: planned(t) for k, t in TENSORS.items()})
    return tmp_path / "a.safetensors"


def with_header(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_library_reads_what_we_write(path: Path) -> None:
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "b.safetensors", metadata={"format": "pt"})
    file = TensorFile(tmp_path / "b.safetensors")
    for name, tensor in TENSORS.items():
        assert torch.equal(file.mapped(name), tensor)
        assert torch.equal(file.read(name, dtype=tensor.dtype, device="cpu"), tensor)
        assert file.entries[name].shape == tuple(tensor.shape)


def test_data_is_aligned(path: Path) -> None:
    assert min(entry.start for entry in TensorFile(path).entries.values()) % 64 == 0


def test_large_tensor_comes_in_blocks(path: Path) -> None:
    file = TensorFile(path)
    assert [block.tolist() for block in file.blocks("wide", block_bytes=16)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


def test_tensor_is_cast_while_it_is_read(path: Path) -> None:
    read = TensorFile(path).read("wide", dtype=torch.bfloat16, device="cpu")
    assert read.dtype == torch.bfloat16
    assert torch.equal(read, TENSORS["wide"].bfloat16())


def test_mapped_tensor_can_be_changed_without_changing_the_file(path: Path) -> None:
    before = path.read_bytes()
    TensorFile(path).mapped("wide").fill_(7)
    assert path.read_bytes() == before
    assert torch.equal(TensorFile(path).mapped("wide"), TENSORS["wide"])


def test_mapped_tensor_outlives_its_file(path: Path) -> None:
    tensor = TensorFile(path).mapped("wide")
    write_tensors(path, {"wide": planned(torch.zeros(1))})
    path.unlink()
    assert torch.equal(tensor, TENSORS["wide"])


def test_numbers_are_cast_to_what_was_planned(tmp_path: Path) -> None:
    plan = {"a": Planned(torch.bfloat16, (2, 2), lambda: (torch.ones(3), torch.ones(1)))}
    write_tensors(tmp_path / "c.safetensors", plan)
    assert torch.equal(load_file(tmp_path / "c.safetensors")["a"], torch.ones(2, 2).bfloat16())


def test_failed_write_leaves_the_old_file(path: Path) -> None:
    def broken() -> Iterator[Tensor]:
        yield torch.ones(1)
        raise ModelError("no more")

    before = path.read_bytes()
    with pytest.raises(ModelError, match="no more"):
        write_tensors(path, {"a": Planned(torch.float32, (2,), broken)})
    with pytest.raises(ModelError, match="a: 1 numbers came"):
        write_tensors(path, {"a": Planned(torch.float32, (2,), lambda: (torch.ones(1),))})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def entry(**changes: object) -> dict[str, dict[str, object]]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (entry(shape=[3]), r"a is \(3,\), but has 8 bytes"),
        (entry(shape=[-2]), "a is"),
        (entry(dtype="I64", shape=[1]), "a is of type I64"),
        (entry(data_offsets=[4, 12]), "hole or overlap"),
        (entry(data_offsets=[0, 16], shape=[4]), "end at byte"),
        (entry() | {"b": entry()["a"]}, "hole or overlap"),
        (entry(data_offsets=["x", 8]), "not a safetensors file"),
        ({"a": 3}, "not a safetensors file"),
        ({"a": {"dtype": "F32"}}, "not a safetensors file"),
        ([], "not a safetensors file"),
    ],
)
def test_header_that_lies_is_refused(tmp_path: Path, header: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TensorFile(with_header(tmp_path / "x.safetensors", header, bytes(8)))


@pytest.mark.parametrize(
    "data", [b"", b"\x05", bytes(8), b"\xff" * 64, b"\x04" + bytes(7) + b"nope"]
)
def test_file_of_another_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"x\.safetensors is not a safetensors file"):
        TensorFile(path)


def test_file_that_shrinks_while_it_is_read_is_told(path: Path) -> None:
    file = TensorFile(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match="became shorter while it was read"):
        list(file.blocks("half"))


def test_file_that_is_replaced_is_still_read_to_its_end(path: Path) -> None:
    file = TensorFile(path)
    write_tensors(path, {"wide": planned(torch.zeros(1))})
    assert torch.equal(file.read("wide", dtype=torch.float32, device="cpu"), TENSORS["wide"])
    assert torch.equal(file.mapped("wide"), TENSORS["wide"])
