"""Memory of server and align worker that serve one model at pi0.5's real widths, and its share.

Both map the same file. Rss counts a shared page in each process, Pss its share; the sum of Pss is
what the machine has to have. The server acts, the worker aligns on a little play, so that each has
read what it needs of the weights.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfalign.model.checkpoint import CONFIG, TOKENIZER, WEIGHTS, empty_policy
from selfalign.model.config import ModelConfig, pi05_config
from selfalign.model.keys import keeps_float32
from selfalign.model.tensor_file import Planned, write_tensors
from selfalign.model.tokenizer import small_tokenizer
from server.settings import shipped_specs
from tests.benchmarks.figure import Figure, rounded
from tests.benchmarks.play_stream import record
from tests.benchmarks.robot import play_step
from tests.benchmarks.server_process import ServerProcess

PLAY_STEPS = 40
STEPS = 2
MEGABYTE = 1e6
# The head of a mapping in /proc/PID/smaps: addresses, rights, offset, device, inode, path.
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")


def measure(depth: int = 2, vision_depth: int = 2) -> Iterator[Figure]:
    """`full_weights_pss_over_most`: weights in memory, over those of the process with most.

    1: both together take no more memory for them than one. 2: nothing is shared.
    """
    with tempfile.TemporaryDirectory(prefix="selfalign-full-") as name:
        directory = Path(name)
        weights = write_model(directory, pi05_config(depth=depth, vision_depth=vision_depth))
        spec_file = str(next(p for p in shipped_specs() if p.stem == "panda"))
        with ServerProcess(model=name, arguments=("--spec", spec_file)) as server:
            spec = server.get("/info")["robots"][0]["spec"]
            rng = np.random.default_rng(0)
            play = [play_step(spec, rng, index) for index in range(PLAY_STEPS)]
            episode = record(server.websocket_url, spec["name"], play)
            budget = {"source": {"episodes": [episode]}, "budget": {"steps": STEPS}}
            session = server.post("/align", budget)["id"]
            state = server.wait_for_session(session, within_s=1800.0)
            told = {
                role: parts(process.pid)
                for role, process in server.processes().items()
                if role != "recorder"
            }
    yield Figure(
        "full_weights_pss_over_most",
        sum(of["weights_pss"] for of in told.values())
        / max(of["weights_rss"] for of in told.values()),
        "ratio",
        details={
            "file_mb": rounded(weights / MEGABYTE),
            "depth": depth,
            "vision_depth": vision_depth,
            "session": state["state"],
            **{
                f"{role}_mb": {key: rounded(value / MEGABYTE) for key, value in of.items()}
                for role, of in told.items()
            },
        },
    )


def write_model(directory: Path, config: ModelConfig) -> int:
    """A model directory of random numbers in mixed bfloat16. Returns the size of its weights."""
    config = config.model_copy(update={"attached": True})
    state = empty_policy(config).state_dict()
    plan = {
        name: Planned(
            torch.float32 if name.startswith("w0_") or keeps_float32(name) else torch.bfloat16,
            tuple(tensor.shape),
            partial(blocks, tensor.numel(), tensor.shape[-1]),
        )
        for name, tensor in state.items()
    }
    write_tensors(directory / WEIGHTS, plan)
    config.save(directory / CONFIG)
    small_tokenizer().save(str(directory / TOKENIZER))
    return (directory / WEIGHTS).stat().st_size


def blocks(count: int, width: int) -> Iterator[Tensor]:
    """Random numbers that keep a forward pass tame, the same ones over and over."""
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * width**-0.5
    for start in range(0, count, len(block)):
        yield block[: count - start]


def parts(pid: int) -> dict[str, float]:
    """Memory of a process [byte]: of the weights' mapping, of all, and what is in no file."""
    total: defaultdict[str, float] = defaultdict(float)
    is_weights = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if head := _MAPPING.match(line):
            is_weights = head[1].endswith(WEIGHTS)
            continue
        key, _, value = line.partition(":")
        if key not in {"Rss", "Pss", "Anonymous"}:
            continue
        size = int(value.split()[0]) * 1024
        total[key.lower()] += size
        if is_weights:
            total[f"weights_{key.lower()}"] += size
    return dict(total)
