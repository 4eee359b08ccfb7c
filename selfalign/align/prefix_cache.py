"""Prefixes of play frames that have been computed once: in memory, and beyond that on disk.

At full size the prefix of one frame is 15 MB and takes seconds; a session reads each frame many
times. Both tiers are bounded in bytes and give up what was used longest ago. A file is written
beside its name and renamed; one that is torn, damaged or of another shape is a miss, not an error.
"""

import hashlib
import json
import logging
import os
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from selfalign.model.prefix import Prefix

logger = logging.getLogger(__name__)

_SUFFIX, _UNFINISHED = ".prefix", ".unfinished"
_TENSORS = ("key_values", "mask", "features", "feature_mask")


@final
@dataclass
class CacheCounts:
    """How often the cache was asked and what it answered; sizes in bytes."""

    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    damaged: int = 0
    evicted_from_memory: int = 0
    evicted_from_disk: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the questions that needed no computation; 0 before the first."""
        hits = self.memory_hits + self.disk_hits
        return hits / (hits + self.misses) if hits + self.misses else 0.0

    def metrics(self) -> dict[str, float]:
        """The counts under the public names `prefix_cache/<name>`."""
        counts = {name: float(value) for name, value in vars(self).items()}
        return {f"prefix_cache/{k}": v for k, v in (counts | {"hit_rate": self.hit_rate}).items()}


@final
@dataclass
class PrefixCache:
    """A bounded store of single prefixes by name. Any thread may use it.

    Attributes:
        directory: where the disk tier lives; None: memory only. One process at a time owns it.
        memory_bytes: most bytes in memory.
        disk_bytes: most bytes on disk.
    """

    directory: Path | None
    memory_bytes: int
    disk_bytes: int = 0
    counts: CacheCounts = field(default_factory=CacheCounts)
    _memory: OrderedDict[str, Prefix] = field(default_factory=OrderedDict)
    _disk: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for left in self.directory.glob(f"*{_UNFINISHED}"):
            left.unlink(missing_ok=True)
        found = [(p.stat().st_mtime_ns, p) for p in self.directory.glob(f"*{_SUFFIX}")]
        for _, path in sorted(found):
            self._disk[path.stem] = path.stat().st_size
        self.counts.disk_bytes = sum(self._disk.values())
        self._shrink_disk()

    def get(self, name: str) -> Prefix | None:
        """The prefix of that name, batch 1, or None where it has to be computed."""
        key = _file_name(name)
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                self.counts.memory_hits += 1
                return self._memory[key]
            prefix = self._read(key)
            if prefix is None:
                self.counts.misses += 1
                return None
            self.counts.disk_hits += 1
            self._remember(key, prefix)
            return prefix

    def put(self, name: str, prefix: Prefix) -> None:
        """Keep a prefix of batch 1. A disk that refuses costs the disk tier only."""
        key = _file_name(name)
        with self._lock:
            self._remember(key, prefix)
            if self.directory is not None and prefix.nbytes <= self.disk_bytes:
                try:
                    self._write(key, prefix)
                except OSError as error:
                    logger.warning("the prefix cache could not write %s: %s", key, error)

    def _remember(self, key: str, prefix: Prefix) -> None:
        old = self._memory.pop(key, None)
        self.counts.memory_bytes -= 0 if old is None else old.nbytes
        if prefix.nbytes > self.memory_bytes:
            return
        self._memory[key] = prefix
        self.counts.memory_bytes += prefix.nbytes
        while self.counts.memory_bytes > self.memory_bytes:
            _, oldest = self._memory.popitem(last=False)
            self.counts.memory_bytes -= oldest.nbytes
            self.counts.evicted_from_memory += 1

    def _path(self, key: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{key}{_SUFFIX}"

    def _read(self, key: str) -> Prefix | None:
        if key not in self._disk:
            return None
        path = self._path(key)
        try:
            prefix = decode(path.read_bytes())
            os.utime(path)
        except (OSError, ValueError, SafetensorError) as error:
            logger.warning("%s is damaged and is computed again: %s", path, error)
            self.counts.damaged += 1
            self._forget(key)
            return None
        self._disk.move_to_end(key)
        return prefix

    def _write(self, key: str, prefix: Prefix) -> None:
        path = self._path(key)
        data = encode(prefix)
        unfinished = path.with_suffix(_UNFINISHED)
        try:
            unfinished.write_bytes(data)
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        self.counts.disk_bytes += len(data) - self._disk.pop(key, 0)
        self._disk[key] = len(data)
        self._shrink_disk()

    def _shrink_disk(self) -> None:
        while self.counts.disk_bytes > self.disk_bytes:
            self._forget(next(iter(self._disk)))
            self.counts.evicted_from_disk += 1

    def _forget(self, key: str) -> None:
        self.counts.disk_bytes -= self._disk.pop(key)
        self._path(key).unlink(missing_ok=True)


def encode(prefix: Prefix) -> bytes:
    """One prefix as a safetensors file with a checksum."""
    tensors = {name: _on_cpu(getattr(prefix, name)) for name in _TENSORS}
    facts = {"image_tokens": prefix.image_tokens, "crc32": _checksum(tensors)}
    return save(tensors, {"prefix": json.dumps(facts)})


def decode(data: bytes) -> Prefix:
    """The inverse of `encode`. Raises ValueError or SafetensorError for anything else."""
    tensors = load(data)
    if set(tensors) != set(_TENSORS):
        raise ValueError(f"it holds {sorted(tensors)}, not {sorted(_TENSORS)}")
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header.get("__metadata__", {}).get("prefix", "{}"))
    if facts.get("crc32") != _checksum(tensors):
        raise ValueError("its checksum is wrong")
    return Prefix(
        tensors["key_values"],
        tensors["mask"],
        facts["image_tokens"],
        tensors["features"],
        tensors["feature_mask"],
    )


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in _TENSORS:
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def _file_name(name: str) -> str:
    """A name of any length and any characters as that of a file."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]
