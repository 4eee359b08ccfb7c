"""Our model at pi0's real widths, random weights, and one observation for it and for its rivals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from selfalign.model import flow
from selfalign.model.keys import keeps_float32
from selfalign.model.policy import Policy
from selfalign.model.weights import FastWeights
from tests.benchmarks.full_depth import deepen, repeat
from tests.parity.published import small_config
from tests.parity.seeded import Geometry, Inputs
from tests.parity.stock import stock_arguments, stock_model

T = TypeVar("T")

# Tokens that a prompt may have, and that this one has: pi0.5's holds the state of 14 joints too.
PROMPTS = {"pi0": (48, 12), "pi05": (200, 64)}
SLOTS = 3


def full_geometry(depth: int, vision_depth: int, flavour: str = "pi0") -> Geometry:
    """pi0's widths. A vocabulary that small changes no time: its table is only looked up."""
    return Geometry(
        image_size=224,
        vision_width=1152,
        vision_depth=vision_depth,
        vision_heads=16,
        vision_mlp=4304,
        language_width=2048,
        language_mlp=16384,
        action_width=1024,
        action_mlp=4096,
        depth=depth,
        head_dim=256,
        vocab_size=1024,
        prompt_tokens=PROMPTS[flavour][0],
        action_dim=32,
        horizon=50,
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Models are made in this precision: in float32 a full one would not fit before its cast."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def random_model(
    geometry: Geometry,
    flavour: str = "pi0",
    *,
    gates: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Policy:
    """A frozen policy whose norms are away from zero; `gates` opens its TTT layers."""
    torch.manual_seed(0)
    config = small_config(geometry, flavour)
    # The mean of the image tokens, as published models have it: no weights of its own.
    vision = config.vision.model_copy(update={"readout": "mean"})
    config = config.model_copy(update={"vision": vision, "feature_dim": vision.token_width})
    with default_dtype(dtype):
        policy = Policy(config)
    for fast in (policy.w0_W1, policy.w0_b1):
        fast.data = fast.data.float()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "norm.dense." in name:
                parameter.normal_(0.0, 0.2 * config.action.width**-0.5)
            elif "layernorm" in name and name.endswith("weight"):
                parameter.normal_(0.0, 0.2)
            if name.endswith("ttt.gate") and gates:
                parameter.fill_(0.5)
    return policy.freeze("benchmark")


def cast(policy: Policy, dtype: torch.dtype, *, mixed: bool) -> Policy:
    """Round the weights; `mixed` keeps float32 what openpi keeps."""
    for name, parameter in policy.named_parameters():
        if not name.startswith("w0_"):
            kept = mixed and keeps_float32(name)
            parameter.data = parameter.data.to(torch.float32 if kept else dtype)
    return policy.freeze("benchmark")


def deep(policy: Policy, depth: int, vision_depth: int) -> Policy:
    """The policy at this depth: its layers come again, with the same weights, without TTT."""
    config = policy.config
    if (config.language.depth, config.vision.depth) == (depth, vision_depth):
        return policy
    repeat(policy.language.layers, depth)
    repeat(policy.action.layers, depth)
    repeat(policy.vision.tower.encoder.layers, vision_depth)
    stacks = {key: {"depth": depth} for key in ("language", "action")}
    parts: dict[str, dict[str, Any]] = {**stacks, "vision": {"depth": vision_depth}}
    parts["ttt"] = {"layers": config.ttt_layers}
    policy.config = config.model_copy(
        update={key: getattr(config, key).model_copy(update=new) for key, new in parts.items()}
    )
    return policy.freeze("benchmark")


def timed_by(policy: Policy, clock: flow.Clock) -> Policy:
    """The policy with the rival's clock."""
    policy.config = policy.config.model_copy(update={"flow_clock": clock})
    return policy.freeze("benchmark")


def observation(geometry: Geometry, cameras: int, flavour: str = "pi0") -> Inputs:
    """One observation with the first `cameras` of three cameras; images of all are there."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, geometry.vocab_size, (1, geometry.prompt_tokens))
    valid = np.arange(geometry.prompt_tokens)[None] < PROMPTS[flavour][1]
    chunk = (1, geometry.horizon, geometry.action_dim)
    side = geometry.image_size
    return Inputs(
        images=rng.uniform(-1, 1, (1, SLOTS, 3, side, side)).astype(np.float32),
        image_mask=np.arange(SLOTS)[None] < cameras,
        tokens=np.where(valid, tokens, 0),
        token_mask=valid,
        state=rng.standard_normal((1, geometry.action_dim)).astype(np.float32),
        noise=rng.standard_normal(chunk).astype(np.float32),
        actions=np.zeros(chunk, np.float32),
        time=np.ones(1, np.float32),
    )


@dataclass(frozen=True)
class Ours:
    """Our policy over one observation: cameras that are missing and padding are not computed."""

    policy: Policy
    given: Inputs
    w: FastWeights

    def parts(self) -> tuple[Tensor, dict[str, float]]:
        """A chunk, and the time of its parts [ms]."""
        given, cameras = self.given, int(self.given.image_mask.sum())
        images = torch.from_numpy(given.images[:, :cameras])
        mask = torch.ones(1, cameras, dtype=torch.bool)
        prompt = int(given.token_mask.sum())
        tokens = torch.from_numpy(given.tokens[:, :prompt])
        valid = torch.ones(1, prompt, dtype=torch.bool)
        with torch.inference_mode():
            path = self.policy.act_path(1)
            vision_ms, _ = timed(lambda: path.vision(images.flatten(0, 1)))
            prefix_ms, prefix = timed(lambda: self.policy.prefix(images, mask, tokens, valid))
            steps_ms, chunk = timed(
                lambda: self.policy.act(
                    prefix,
                    torch.from_numpy(given.state),
                    self.w,
                    noise=torch.from_numpy(given.noise),
                )
            )
        return chunk, {
            "vision": vision_ms,
            "language": prefix_ms - vision_ms,
            "steps": steps_ms,
            "chunk": prefix_ms + steps_ms,
        }


class Stock:
    """transformers' pi0 with the same weights, in the same memory."""

    def __init__(self, geometry: Geometry, policy: Policy) -> None:
        self.geometry = geometry
        with default_dtype(policy.dtype):
            self.model = stock_model(geometry, exact_time=True, weights_of=policy)
        vlm, config = self.model.model.vlm, policy.config
        stacks = [vlm.language_model, self.model.model.dit]
        towers = [vlm.vision_tower.encoder.layers]
        deepen(stacks, towers, config.language.depth, config.vision.depth)

    def chunk(self, given: Inputs) -> tuple[Tensor, dict[str, float]]:
        """A chunk from the cameras that are there, without padding, and its time [ms]."""
        cameras = int(given.image_mask.sum())
        arguments: dict[str, Any] = stock_arguments(self.geometry, given)
        length = int(arguments["attention_mask"].sum())
        arguments["input_ids"] = arguments["input_ids"][:, :length]
        arguments["attention_mask"] = arguments["attention_mask"][:, :length]
        arguments["pixel_attention_mask"] = torch.ones(1, cameras, dtype=torch.bool)
        dtype = self.model.action_out_proj.weight.dtype
        arguments["pixel_values"] = arguments["pixel_values"][:, :cameras].to(dtype)
        arguments["state"] = arguments["state"].to(dtype)
        noise = torch.from_numpy(given.noise).to(dtype)
        took_ms, chunk = timed(
            lambda: self.model.sample_actions(**arguments, noise=noise, num_steps=10)
        )
        return chunk, {"chunk": took_ms}


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Time of a call [ms]: by the clock for several threads, for one thread the processor's.

    The latter is the latency of a quiet core, whatever else runs.
    """
    now_ns = time.perf_counter_ns if torch.get_num_threads() > 1 else time.process_time_ns
    started_ns = now_ns()
    result = call()
    return (now_ns() - started_ns) / 1e6, result
