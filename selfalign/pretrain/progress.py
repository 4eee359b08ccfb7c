"""What a long run leaves behind: a log, a progress bar, and a state it can resume from."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm


@final
class Journal:
    """Means of metrics as JSON lines, and a progress bar. Append-only: a resumed run goes on.

    Without a path it writes and shows nothing, for every process of a run but the first.
    """

    def __init__(self, path: Path | None, phase: str, total: int, start: int, every: int) -> None:
        self._file = (path or Path(os.devnull)).open("a", encoding="utf-8")
        self._phase, self._every = phase, every
        self._bar = tqdm(
            total=total, initial=start, desc=phase, mininterval=5, disable=path is None
        )
        self._sums: dict[str, list[float]] = {}
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._file.close()

    def add(self, iteration: int, metrics: dict[str, float]) -> None:
        """Add the metrics of one iteration; writes a line every so many."""
        for name, value in metrics.items():
            self._sums.setdefault(name, []).append(value)
        self._bar.update()
        if (iteration + 1) % self._every == 0:
            means = {name: sum(values) / len(values) for name, values in self._sums.items()}
            self.write(iteration + 1, means)
            self._bar.set_postfix(
                {name.split("/")[-1][:8]: f"{v:.3f}" for name, v in means.items()}
            )
            self._sums.clear()

    def write(self, iteration: int, metrics: dict[str, float]) -> None:
        """Write one line now."""
        line = {"phase": self._phase, "iteration": iteration}
        line["seconds"] = round(time.monotonic() - self._started, 1)
        self._file.write(json.dumps(line | {k: round(v, 5) for k, v in metrics.items()}) + "\n")
        self._file.flush()


def save_state(
    path: Path,
    module: nn.Module,
    optimisers: Sequence[Optimizer],
    iteration: int,
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Write module, optimisers and more as one safetensors file; it replaces the old one whole."""
    tensors = {f"module.{k}": v for k, v in module.state_dict().items()}
    for numbers, optimiser in _numbered(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            name = f"optimiser.{numbers[index]}"
            tensors |= {f"{name}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors |= {f"extra.{k}": v for k, v in (extra or {}).items()}
    save_tensors(path, tensors, {"iteration": str(iteration)})


def load_state(
    path: Path, module: nn.Module, optimisers: Sequence[Optimizer]
) -> tuple[int, dict[str, Tensor]]:
    """Restore what `save_state` wrote.

    Returns the iteration to go on with (0 without a file) and the extra tensors.
    """
    file = path.with_suffix(".safetensors")
    if not file.exists():
        return 0, {}
    tensors = load_file(file)
    module.load_state_dict(_part(tensors, "module."))
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = value
    for numbers, optimiser in _numbered(optimisers):
        own = {index: states[n] for index, n in enumerate(numbers) if n in states}
        optimiser.load_state_dict(optimiser.state_dict() | {"state": own})
    return int(read_metadata(file)["iteration"]), _part(tensors, "extra.")


def _numbered(optimisers: Sequence[Optimizer]) -> Iterator[tuple[range, Optimizer]]:
    """Every optimiser with the numbers of its parameters, counted over all optimisers."""
    first = 0
    for optimiser in optimisers:
        count = sum(len(group["params"]) for group in optimiser.param_groups)
        yield range(first, first + count), optimiser
        first += count


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write `path`.safetensors by way of a temporary file."""
    temporary = path.with_suffix(".tmp")
    unique = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    save_file(unique, temporary, metadata)
    temporary.rename(path.with_suffix(".safetensors"))


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header: dict[str, dict[str, str]] = json.loads(stream.read(size))
    return header.get("__metadata__", {})
