"""`selfalign attach`: TTT layers and the alignment expert for a converted policy.

Every TTT gate is closed, so the policy acts to the last bit as before until stage 1 opens it. New
weights come from the modules' own initialisation, layer by layer; the alignment expert's layers
start as copies of evenly spaced layers of the action expert, where the shapes are equal.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor, nn

from selfalign.errors import ModelError
from selfalign.model.alignment import AlignmentExpert
from selfalign.model.checkpoint import CONFIG, TOKENIZERS, WEIGHTS
from selfalign.model.config import ModelConfig
from selfalign.model.convert import new_directory
from selfalign.model.convert_source import expected_shapes
from selfalign.model.gemma import GemmaStack
from selfalign.model.keys import is_added, is_ttt, keeps_float32
from selfalign.model.processing import NORM_STATS
from selfalign.model.tensor_file import Planned, TensorFile, write_tensors
from selfalign.model.ttt import TTTLayer, identity_gate
from selfalign.model.vision import FeatureReadout, MeanReadout

_EXPERT = "alignment.expert."


@final
@dataclass(frozen=True)
class Attached:
    """What was added: numbers by part, and which action layers the alignment expert copies."""

    config: ModelConfig
    added: dict[str, int]
    copied_layers: tuple[int, ...]


def attach(
    source: Path,
    target: Path,
    *,
    alignment_depth: int = 4,
    ttt_layers: Literal["all"] | tuple[int, ...] = "all",
    stride: int = 1,
    seed: int = 0,
) -> Attached:
    """Write a converted policy with everything that alignment needs.

    Args:
        source: A directory that `convert` wrote.
        target: A directory that does not exist or is empty.
        alignment_depth: Layers of the alignment expert.
        ttt_layers: Layers of the action expert that get a TTT layer. TTT layers that the source
            brings (the fork's) stay as they are.
        stride: Control steps between the two observations of a transition.
        seed: Of the new weights.

    Raises:
        ModelError: the source is no converted policy, or the geometry does not fit.
    """
    config = ModelConfig.load(source / CONFIG)
    if config.attached:
        raise ModelError(f"{source} has its TTT layers and alignment expert already")
    file = TensorFile(source / WEIGHTS)
    config = _attached_config(config, file, depth=alignment_depth, layers=ttt_layers, stride=stride)
    plan, added = _plan(file, config, seed)
    with new_directory(target) as made:
        for name in (*TOKENIZERS, NORM_STATS):
            if (source / name).is_file():
                shutil.copyfile(source / name, made / name)
        write_tensors(made / WEIGHTS, plan)
        config.save(made / CONFIG)
    return Attached(config, added, copied_layers(config))


def copied_layers(config: ModelConfig) -> tuple[int, ...]:
    """The layer of the action expert that each layer of the alignment expert starts from."""
    depth, last = config.alignment.depth, config.action.depth - 1
    if depth == 1:
        return (last,)
    return tuple(round(i * last / (depth - 1)) for i in range(depth))


def _attached_config(
    config: ModelConfig,
    file: TensorFile,
    *,
    depth: int,
    layers: Literal["all"] | tuple[int, ...],
    stride: int,
) -> ModelConfig:
    brings_ttt = any(is_ttt(name) for name in file.entries)
    ttt = (
        config.ttt
        if brings_ttt
        else config.ttt.model_copy(update={"layers": layers, "gate_init": 0.0})
    )
    data = config.model_dump() | {
        "attached": True,
        "stride": stride,
        "ttt": ttt.model_dump(),
        "alignment": {**config.alignment.model_dump(), "depth": depth},
    }
    try:
        return ModelConfig.model_validate(data)
    except ValueError as error:
        raise ModelError(f"this cannot be attached: {error}") from None


def _plan(
    file: TensorFile, config: ModelConfig, seed: int
) -> tuple[dict[str, Planned], dict[str, int]]:
    shapes = expected_shapes(config)
    new = {name: shape for name, shape in shapes.items() if name not in file.entries}
    strange = [name for name in new if not is_added(name, config.flavour)]
    strange += [name for name in file.entries if file.entries[name].shape != shapes.get(name)]
    if strange:
        raise ModelError(f"{file.path}: missing or unfit keys {sorted(strange)[:8]}")
    working = file.entries["action.layers.0.self_attn.q_proj.weight"].dtype
    fresh = _Fresh(file, config, seed)
    plan: dict[str, Planned] = {}
    for name, entry in file.entries.items():
        plan[name] = Planned(entry.dtype, entry.shape, partial(file.blocks, name))
    for name, shape in new.items():
        dtype = torch.float32 if keeps_float32(name) else working
        plan[name] = Planned(dtype, shape, partial(fresh.blocks, name, shape))
    added: dict[str, int] = {}
    for name, shape in new.items():
        part = "TTT layers and W0" if is_ttt(name) else name.split(".")[0]
        added[part] = added.get(part, 0) + torch.Size(shape).numel()
    return plan, added


@final
class _Fresh:
    """New weights by name, made one module at a time so that few of them are in memory."""

    def __init__(self, file: TensorFile, config: ModelConfig, seed: int) -> None:
        self._file, self._config, self._seed = file, config, seed
        self._made: tuple[str, dict[str, Tensor]] = ("", {})

    def blocks(self, name: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """The numbers of a new weight."""
        source = self._copied_from(name)
        if source in self._file.entries and self._file.entries[source].shape == shape:
            yield from self._file.blocks(source)
            return
        owner = _owner(name)
        if self._made[0] != owner:
            self._made = (owner, self._make(owner))
        yield self._made[1][name]

    def _copied_from(self, name: str) -> str:
        if not name.startswith(f"{_EXPERT}layers."):
            return ""
        index, rest = name.removeprefix(f"{_EXPERT}layers.").split(".", 1)
        return f"action.layers.{copied_layers(self._config)[int(index)]}.{rest}"

    def _make(self, owner: str) -> dict[str, Tensor]:
        """All new weights of one module, from its own initialisation. Follows seed and owner."""
        digest = sha256(f"{self._seed}|{owner}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            if owner == "w0_":
                return _fresh_w0(self._config)
            state = _module(owner, self._config).state_dict()
        return {f"{owner}{name}": tensor for name, tensor in state.items()}


def _owner(name: str) -> str:
    """The prefix of the module that makes a weight."""
    if name.startswith("w0_"):
        return "w0_"
    if match := re.match(r"action\.layers\.\d+\.ttt\.|alignment\.expert\.layers\.\d+\.", name):
        return match[0]
    for prefix in (f"{_EXPERT}norm.", "vision.readout."):
        if name.startswith(prefix):
            return prefix
    return name.split(".", maxsplit=1)[0] + "."


def _module(owner: str, config: ModelConfig) -> nn.Module:
    """A new module whose weights stand under `owner` in a policy."""
    one = config.alignment.model_copy(update={"depth": 1})
    if ".ttt." in owner:
        layer = TTTLayer(config.action.width, config.ttt)
        identity_gate(layer)
        return layer
    if owner == f"{_EXPERT}norm.":
        return GemmaStack(one).norm
    if owner.startswith(_EXPERT):
        return GemmaStack(one).layers[0]
    if owner == "alignment.":
        return AlignmentExpert(config.model_copy(update={"alignment": one}))
    if owner == "vision.readout.":
        vision = config.vision
        if vision.readout == "mean":
            return MeanReadout(vision.token_width)
        return FeatureReadout(vision.tokens, vision.token_width, config.feature_dim)
    return nn.Linear(config.state_dim, config.action.width)  # state_proj., of pi0.5


def _fresh_w0(config: ModelConfig) -> dict[str, Tensor]:
    rows, heads, dim = len(config.ttt_layers), config.ttt.heads, config.ttt_head_dim
    return {
        "w0_W1": torch.randn(rows, heads, dim, dim) * config.ttt.w_std,
        "w0_b1": torch.zeros(rows, heads, 1, dim),
    }
