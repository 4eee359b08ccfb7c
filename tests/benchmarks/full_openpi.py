"""openpi's own pi0 or pi0.5 in a process of its own, for tests/benchmarks/full.py.

Run by the Python of an environment made as tests/parity/make_openpi_fixtures.py says:
`python full_openpi.py OPENPI_SOURCE FOLDER MODEL`. FOLDER holds the weights and the observations,
MODEL is JSON: what else `build` takes. Every line on standard input is a number of cameras, every
line of JSON on standard output the time of a chunk (as full_model.timed takes it), which is left in
the folder.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TESTS = Path(__file__).parents[1]


def build(
    openpi: Path,
    folder: Path,
    fields: dict[str, int],
    depths: tuple[int, int],
    dtype: str,
    flavour: str,
) -> Any:
    """openpi's model with the weights in the folder; what they lack is never read."""
    sys.path[:0] = [
        str(TESTS / "parity"),
        str(openpi / "src"),
        str(openpi / "packages/openpi-client/src"),
    ]
    from full_depth import deepen
    from make_openpi_fixtures import shrink
    from seeded import Geometry

    geometry = Geometry(**fields)
    pi0 = shrink(geometry)
    config = SimpleNamespace(
        pi05=flavour == "pi05",
        paligemma_variant="vlm",
        action_expert_variant="expert",
        dtype=dtype,
        action_dim=geometry.action_dim,
        action_horizon=geometry.horizon,
        pytorch_compile_mode=None,
    )
    model = pi0.PI0Pytorch(config).eval()
    torch.set_float32_matmul_precision("highest")
    weights = load_file(folder / "weights.safetensors")
    missing, unknown = model.load_state_dict(weights, strict=False)
    expected = {"paligemma_with_expert.gemma_expert.lm_head.weight"}
    tied = {"paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"}
    if set(missing) - expected - tied or unknown:
        raise SystemExit(f"missing {missing}, unknown {unknown}")
    experts = model.paligemma_with_expert
    paligemma = experts.paligemma.model
    stacks = [paligemma.language_model, experts.gemma_expert.model]
    deepen(stacks, [paligemma.vision_tower.vision_model.encoder.layers], *depths)
    return model


def observation(given: dict[str, torch.Tensor]) -> Any:
    """Three images, of which `image_mask` says which are there."""
    names = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    return SimpleNamespace(
        images={name: given["images"][:, slot] for slot, name in enumerate(names)},
        image_masks={name: given["image_mask"][:, slot] for slot, name in enumerate(names)},
        state=given["state"],
        tokenized_prompt=given["tokens"],
        tokenized_prompt_mask=given["token_mask"],
        token_ar_mask=None,
        token_loss_mask=None,
    )


def main(openpi: Path, folder: Path, told: dict[str, Any]) -> None:
    """Serve chunks until standard input ends."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model = build(openpi, folder, **told)
    now_ns = time.perf_counter_ns if torch.get_num_threads() > 1 else time.process_time_ns
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        given = load_file(folder / f"given_{line.strip()}.safetensors")
        started_ns = now_ns()
        chunk = model.sample_actions("cpu", observation(given), noise=given["noise"], num_steps=10)
        took_ms = (now_ns() - started_ns) / 1e6
        save_file({"chunk": chunk.contiguous()}, folder / "chunk.safetensors")
        print(json.dumps({"chunk": took_ms}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
