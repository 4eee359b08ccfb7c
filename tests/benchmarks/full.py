"""A chunk at pi0's real widths, beside transformers' and openpi's own pi0 on the same weights.

`make bench-full ARGS="--depth 4 --vision-depth 4 --dtypes float32 bfloat16"`. Calls alternate; one
thread and its processor time, or OMP_NUM_THREADS threads by the clock, on a quiet machine; every
chunk is compared. openpi runs in its own environment, which
OPENPI_PYTHON (its interpreter) and OPENPI_SOURCE (its checkout) name; without them it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

# Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfalign.model.policy import Policy
from tests.benchmarks import full_align, full_memory
from tests.benchmarks.figure import Figure, percentile, rounded
from tests.benchmarks.full_model import (
    PROMPTS,
    Ours,
    Stock,
    cast,
    deep,
    full_geometry,
    observation,
    random_model,
    timed_by,
)
from tests.parity.published import published_weights
from tests.parity.seeded import Geometry, Inputs

Rival = Callable[[Inputs], tuple[Tensor, dict[str, float]]]
GOAL = 1.5


def measure() -> Iterator[Figure]:
    """`full_transformers_over_ours`, the short form for `make bench`: one layer, one camera."""
    geometry = full_geometry(1, 1)
    policy = random_model(geometry)
    yield from compare(policy, geometry, "transformers", Stock(geometry, policy).chunk, (1,), 5)


def compare(
    policy: Policy,
    geometry: Geometry,
    name: str,
    rival: Rival,
    cameras: tuple[int, ...],
    repeats: int,
) -> Iterator[Figure]:
    """The rival's time over ours, for each number of cameras."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for count in cameras:
        given = observation(geometry, count, policy.config.flavour)
        ours = Ours(policy, given, policy.base_w())
        policy.act_path(1)  # prepares what is kept for all chunks
        mine: list[dict[str, float]] = []
        theirs: list[float] = []
        for _ in range(repeats):
            chunk, parts = ours.parts()
            expected, took = rival(given)
            mine.append(parts)
            theirs.append(took["chunk"])
        p50 = {part: percentile([m[part] for m in mine], 50) for part in mine[0]}
        yield Figure(
            f"full_{name}_over_ours",
            percentile(theirs, 50) / p50["chunk"],
            "ratio",
            goal=GOAL,
            better="higher",
            details={
                "cameras": count,
                "flavour": policy.config.flavour,
                "prompt": int(given.token_mask.sum()),
                "dtype": str(policy.dtype).removeprefix("torch."),
                "depth": policy.config.language.depth,
                "vision_depth": policy.config.vision.depth,
                "different_layers": geometry.depth,
                "rival_ms": rounded(percentile(theirs, 50)),
                "ours_ms": {part: rounded(value) for part, value in p50.items()},
                "largest_difference": rounded(float((chunk - expected.float()).abs().max())),
                "largest_action": rounded(float(expected.abs().max())),
                "repeats": repeats,
                "threads": torch.get_num_threads(),
            },
        )


@contextmanager
def openpi(policy: Policy, geometry: Geometry, cameras: tuple[int, ...]) -> Iterator[Rival | None]:
    """openpi in a process of its own; None where its environment is not given."""
    python, source = (os.environ.get(name) for name in ("OPENPI_PYTHON", "OPENPI_SOURCE"))
    if python is None or source is None:
        print("OPENPI_PYTHON, OPENPI_SOURCE: not set, openpi is left out", file=sys.stderr)
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="selfalign-openpi-") as name:
        folder = Path(name)
        save_file(
            unshared(published_weights(policy)),
            folder / "weights.safetensors",
        )
        for count in cameras:
            given = observation(geometry, count, policy.config.flavour)
            save_given(given, folder / f"given_{count}.safetensors")
        script = str(Path(__file__).with_name("full_openpi.py"))
        told = {
            "fields": asdict(geometry),
            "depths": [policy.config.language.depth, policy.config.vision.depth],
            "dtype": str(policy.dtype).removeprefix("torch."),
            "flavour": policy.config.flavour,
        }
        command = [python, script, source, str(folder), json.dumps(told)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            stdin, stdout = process.stdin, process.stdout
            answer(stdout.readline())

            def chunk(given: Inputs) -> tuple[Tensor, dict[str, float]]:
                stdin.write(f"{int(given.image_mask.sum())}\n")
                stdin.flush()
                took = answer(stdout.readline())
                return load_file(folder / "chunk.safetensors")["chunk"], took

            yield chunk


def unshared(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor under its first name: layers that come again are left out."""
    names: dict[int, str] = {}
    for name, tensor in weights.items():
        names.setdefault(tensor.data_ptr(), name)
    return {name: weights[name].contiguous() for name in names.values()}


def answer(line: str) -> dict[str, float]:
    """What the other process said. Raises RuntimeError where it has ended."""
    if not line:
        raise RuntimeError("openpi's process ended; its error stands above")
    result: dict[str, float] = json.loads(line)
    return result


def save_given(given: Inputs, path: Path) -> None:
    """The observation as a file."""
    arrays = {key: torch.from_numpy(value) for key, value in asdict(given).items()}
    save_file({key: value.contiguous() for key, value in arrays.items()}, path)


def against(
    rivals: list[str], policy: Policy, geometry: Geometry, cameras: tuple[int, ...], repeats: int
) -> Iterator[Figure]:
    """The rivals in turn, on the same weights in one precision. transformers has no pi0.5."""
    if "openpi" in rivals:
        policy = timed_by(policy, "summed")
        with openpi(policy, geometry, cameras) as rival:
            if rival is not None:
                yield from compare(policy, geometry, "openpi", rival, cameras, repeats)
    if "transformers" in rivals and policy.config.flavour == "pi0":
        # It has one precision for all weights.
        policy = timed_by(cast(policy, policy.dtype, mixed=False), "even")
        stock = Stock(geometry, policy).chunk
        yield from compare(policy, geometry, "transformers", stock, cameras, repeats)


def main(arguments: list[str]) -> int:
    """Every figure as one line of JSON."""
    parser = argparse.ArgumentParser(prog="make bench-full", description=__doc__)
    parser.add_argument("--depth", type=int, default=2, help="layers of language and expert")
    parser.add_argument("--vision-depth", type=int, default=4)
    parser.add_argument(
        "--different", type=int, help="how many layers have weights of their own; the rest repeats"
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--flavours", nargs="+", choices=PROMPTS, default=["pi0"])
    parser.add_argument("--skip-align", action="store_true")
    parser.add_argument("--memory", action="store_true", help="of server and worker, no speed")
    parser.add_argument("--cameras", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--rivals", nargs="+", default=["openpi", "transformers"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    if options.memory:
        for figure in full_memory.measure(options.depth, options.vision_depth):
            print(figure.line(), flush=True)
        return 0
    cameras = tuple(options.cameras)
    for flavour in options.flavours:
        most = options.different or max(options.depth, options.vision_depth)
        depths = (min(options.depth, most), min(options.vision_depth, most))
        geometry = full_geometry(*depths, flavour)
        for dtype in options.dtypes:
            precision = getattr(torch, dtype)
            policy = cast(random_model(geometry, flavour, dtype=precision), precision, mixed=True)
            policy = deep(policy, options.depth, options.vision_depth)
            for figure in against(options.rivals, policy, geometry, cameras, options.repeats):
                print(figure.line(), flush=True)
    if not options.skip_align:
        for figure in full_align.measure(options.depth, options.vision_depth, max(cameras)):
            print(figure.line(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
