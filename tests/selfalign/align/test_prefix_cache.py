"""The prefix cache: bounded in both tiers, and never wrong whatever happens to its files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from selfalign.align.prefix_cache import PrefixCache, decode, encode
from selfalign.model.prefix import Prefix


def prefix(number: int, dtype: torch.dtype = torch.float32) -> Prefix:
    generator = torch.Generator().manual_seed(number)
    return Prefix(
        torch.randn(1, 2, 2, 1, 6, 8, generator=generator).to(dtype),
        torch.ones(1, 6, dtype=torch.bool),
        4,
        torch.randn(1, 2, 3, generator=generator),
        torch.tensor([[True, False]]),
    )


SIZE = prefix(0).nbytes
FILE = len(encode(prefix(0)))


def same(one: Prefix | None, other: Prefix) -> bool:
    return (
        one is not None
        and torch.equal(one.key_values, other.key_values)
        and one.key_values.dtype == other.key_values.dtype
        and torch.equal(one.mask, other.mask)
        and torch.equal(one.features, other.features)
        and torch.equal(one.feature_mask, other.feature_mask)
        and one.image_tokens == other.image_tokens
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_prefix_survives_its_file_bit_for_bit(dtype: torch.dtype) -> None:
    assert same(decode(encode(prefix(1, dtype))), prefix(1, dtype))


def test_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    cache = PrefixCache(None, memory_bytes=2 * SIZE)
    for number in (1, 2):
        cache.put(str(number), prefix(number))
    assert same(cache.get("1"), prefix(1))
    cache.put("3", prefix(3))
    assert cache.get("2") is None
    assert same(cache.get("1"), prefix(1))
    assert same(cache.get("3"), prefix(3))
    assert cache.counts.memory_bytes == 2 * SIZE
    assert (cache.counts.memory_hits, cache.counts.misses) == (3, 1)
    assert cache.counts.hit_rate == 0.75


def test_what_memory_gives_up_is_read_from_disk(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, memory_bytes=SIZE, disk_bytes=10 * FILE)
    for number in (1, 2, 3):
        cache.put(str(number), prefix(number))
    for number in (1, 2, 3):
        assert same(cache.get(str(number)), prefix(number))
    assert cache.counts.disk_hits == 3
    assert cache.counts.memory_bytes == SIZE
    assert cache.counts.metrics()["prefix_cache/hit_rate"] == 1.0


def test_disk_is_bounded_also_after_a_restart_with_less(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, memory_bytes=0, disk_bytes=2 * FILE)
    for number in (1, 2, 3):
        cache.put(str(number), prefix(number))
    assert cache.get("1") is None
    assert same(cache.get("3"), prefix(3))
    assert len(list(tmp_path.iterdir())) == 2
    again = PrefixCache(tmp_path, memory_bytes=0, disk_bytes=FILE)
    assert len(list(tmp_path.iterdir())) == 1
    assert again.counts.disk_bytes == FILE


def test_another_process_finds_what_was_written(tmp_path: Path) -> None:
    PrefixCache(tmp_path, memory_bytes=0, disk_bytes=9 * FILE).put("a/../b\0", prefix(1))
    again = PrefixCache(tmp_path, memory_bytes=SIZE, disk_bytes=9 * FILE)
    assert same(again.get("a/../b\0"), prefix(1))
    assert same(again.get("a/../b\0"), prefix(1))
    assert (again.counts.disk_hits, again.counts.memory_hits) == (1, 1)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


def zero(data: bytes) -> bytes:
    return bytes(len(data))


def empty(_data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, flip, zero, empty])
def test_a_damaged_file_is_a_miss_and_goes(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    PrefixCache(tmp_path, memory_bytes=0, disk_bytes=9 * FILE).put("a", prefix(1))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    cache = PrefixCache(tmp_path, memory_bytes=0, disk_bytes=9 * FILE)
    assert cache.get("a") is None
    assert cache.counts.damaged == 1
    assert cache.counts.disk_bytes == 0
    assert not list(tmp_path.iterdir())
    cache.put("a", prefix(2))
    assert same(cache.get("a"), prefix(2))


def test_a_file_that_was_taken_away_is_a_miss(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, memory_bytes=0, disk_bytes=9 * FILE)
    cache.put("a", prefix(1))
    next(tmp_path.iterdir()).unlink()
    assert cache.get("a") is None


def test_what_a_crash_left_unfinished_is_removed(tmp_path: Path) -> None:
    (tmp_path / "0123.unfinished").write_bytes(b"half")
    PrefixCache(tmp_path, memory_bytes=SIZE, disk_bytes=FILE)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_costs_the_disk_tier_only(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path / "cache", memory_bytes=SIZE, disk_bytes=9 * FILE)
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("in the way")
    cache.put("a", prefix(1))
    assert same(cache.get("a"), prefix(1))


def test_a_prefix_larger_than_a_tier_is_not_kept(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, memory_bytes=SIZE - 1, disk_bytes=SIZE - 1)
    cache.put("a", prefix(1))
    assert cache.get("a") is None
    assert cache.counts.memory_bytes == cache.counts.disk_bytes == 0
