"""The weights of a published checkpoint under our names, checked before anything is written."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model import keys
from selfalign.model.checkpoint import WEIGHTS, empty_policy
from selfalign.model.config import ModelConfig, TTTConfig
from selfalign.model.convert_config import Kind, published_config, read_json, source_settings
from selfalign.model.tensor_file import Entry, TensorFile

_INDEX = f"{WEIGHTS}.index.json"
_SHOWN = 8


@final
@dataclass(frozen=True)
class Place:
    """Where a weight lies: a file and its key there."""

    file: TensorFile
    key: str

    @property
    def entry(self) -> Entry:
        """What the file says of it."""
        return self.file.entries[self.key]

    def blocks(self) -> Iterator[Tensor]:
        """Its numbers in order. Raises ModelError for NaN and infinity."""
        for block in self.file.blocks(self.key):
            if not torch.isfinite(block).all():
                raise ModelError(f"{self.file.path}: {self.key} holds NaN or infinity")
            yield block


@final
@dataclass(frozen=True)
class Source:
    """A checkpoint that passed its checks.

    `weights` says for each of our names where it lies: one place, or for the stacked `w0_` one a
    layer. `shapes` are the shapes that our names have. `dropped` lists keys by the reason.
    """

    kind: Kind
    settings: dict[str, Any]
    config: ModelConfig
    weights: dict[str, tuple[Place, ...]]
    shapes: dict[str, tuple[int, ...]]
    dropped: dict[str, list[str]]


def open_source(
    directory: Path, *, horizon: int | None = None, like: ModelConfig | None = None
) -> Source:
    """Read the headers of a checkpoint and compare every key and shape with its geometry.

    Args:
        directory: Of openpi, LeRobot, the fork with TTT, or of this project.
        horizon: Commands in a chunk, where the source does not say.
        like: Geometry instead of the published one, for tests of less depth.

    Raises:
        ModelError: a key is missing, unknown, double or of the wrong shape; it is named.
    """
    kind, settings = source_settings(directory)
    files = _weight_files(directory)
    if kind == "selfalign":
        config = ModelConfig.load(directory / "config.json")
        found = {key: Place(file, key) for file in files for key in file.entries}
        return _checked(Source(kind, settings, config, _stacked(found), {}, {}), directory)
    found, dropped = _renamed(files, directory, tied=kind != "lerobot")
    config = published_config(
        kind, settings, keys.flavour_of(set(found)), horizon=horizon, like=like
    )
    config = _with_ttt(config, found)
    return _checked(Source(kind, settings, config, _stacked(found), {}, dropped), directory)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of every weight of a model directory with this configuration.

    One that is not attached has no alignment expert, and TTT layers only where the source had some.
    """
    state = empty_policy(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _weight_files(directory: Path) -> list[TensorFile]:
    if (directory / _INDEX).is_file():
        index = read_json(directory / _INDEX)
        names = sorted({str(name) for name in index.get("weight_map", {}).values()})
        if not names or any(Path(name).name != name for name in names):
            raise ModelError(f"{directory / _INDEX} names no plain files")
        files = [TensorFile(directory / name) for name in names]
        held = {key for file in files for key in file.entries}
        if lost := sorted(set(index["weight_map"]) - held):
            raise ModelError(f"{directory / _INDEX}: the shards lack keys {lost[:_SHOWN]}")
        return files
    if not (directory / WEIGHTS).is_file() and (directory / "adapter_config.json").is_file():
        raise ModelError(f"{directory} holds an adapter (LoRA); merge it into its model first")
    return [TensorFile(directory / WEIGHTS)]


def _renamed(
    files: list[TensorFile], directory: Path, *, tied: bool
) -> tuple[dict[str, Place], dict[str, list[str]]]:
    """Places by our names, and the keys that are left out, by the reason.

    `tied` says that the source keeps token embedding and language head equal.
    """
    everything = {key for file in files for key in file.entries}
    found: dict[str, Place] = {}
    dropped: dict[str, list[str]] = defaultdict(list)
    unknown: list[str] = []
    for place in (Place(file, key) for file in files for key in sorted(file.entries)):
        why = keys.unused_because(place.key)
        if not tied and keys.is_spare_head(place.key, everything):
            why = "a language head that nothing reads"
        if why:
            dropped[why].append(place.key)
            continue
        try:
            name = keys.our_name(place.key)
        except KeyError:
            unknown.append(place.key)
            continue
        if name in found:
            _same(found[name], place)
            dropped["a second copy of a weight that is there"].append(place.key)
        else:
            found[name] = place
    if unknown:
        raise ModelError(f"{directory}: unknown keys {unknown[:_SHOWN]} ({len(unknown)} in all)")
    return found, dict(dropped)


def _same(first: Place, second: Place) -> None:
    """Two names of one weight (tied embeddings, shared TTT layers) must hold the same numbers."""
    equal = first.entry.shape == second.entry.shape and all(
        one is not None and other is not None and torch.equal(one, other)
        for one, other in zip_longest(first.blocks(), second.blocks())
    )
    if not equal:
        raise ModelError(f"{first.key} and {second.key} name one weight, but differ")


def _with_ttt(config: ModelConfig, found: dict[str, Place]) -> ModelConfig:
    """The configuration with the fork's TTT layers, if the checkpoint has some."""
    rows = {row[1]: name for name in found if (row := keys.fast_row(name)) and row[0] == "w0_W1"}
    if not rows:
        return config
    layers = tuple(sorted(rows))
    shape = found[rows[layers[0]]].entry.shape
    if len(shape) != 3:
        key = found[rows[layers[0]]].key
        raise ModelError(f"{key} is {shape}; a W1 is (heads, width, width), one for all robots")
    # Ours averages the inner step over the tokens of a chunk, the fork adds it up.
    tokens = config.horizon + (config.flavour == "pi0")
    ttt = TTTConfig(
        layers="all" if layers == tuple(range(config.action.depth)) else layers,
        heads=shape[0],
        gate_init=0.1,
        inner_step=True,
        inner_rate=float(tokens),
    )
    return config.model_copy(update={"ttt": ttt})


def _stacked(found: dict[str, Place]) -> dict[str, tuple[Place, ...]]:
    """Join the rows of W0: `w0_W1[i]` of each layer become the places of `w0_W1`."""
    out: dict[str, tuple[Place, ...]] = {}
    rows: dict[str, dict[int, Place]] = defaultdict(dict)
    for name, place in found.items():
        if row := keys.fast_row(name):
            rows[row[0]][row[1]] = place
        else:
            out[name] = (place,)
    for name, layers in rows.items():
        out[name] = tuple(layers[layer] for layer in sorted(layers))
    return out


def _checked(source: Source, directory: Path) -> Source:
    """The source with the shapes of its names. Raises ModelError for a key that does not fit."""
    config = source.config
    shapes = expected_shapes(config)
    if not config.attached:
        with_ttt = "w0_W1" in source.weights
        shapes = {
            name: shape
            for name, shape in shapes.items()
            if not keys.is_added(name, config.flavour) or (with_ttt and keys.is_ttt(name))
        }
    missing = sorted(shapes.keys() - source.weights.keys())
    extra = sorted(source.weights.keys() - shapes.keys())
    if missing or extra:
        theirs = [source.weights[name][0].key for name in extra]
        raise ModelError(
            f"{directory} as {config.flavour} of depth {config.action.depth}: missing keys "
            f"{missing[:_SHOWN]} ({len(missing)}), unknown keys {theirs[:_SHOWN]} ({len(extra)})"
        )
    for name, places in source.weights.items():
        _check_shape(name, places, shapes[name])
    return replace(source, shapes=shapes)


def _check_shape(name: str, places: tuple[Place, ...], shape: tuple[int, ...]) -> None:
    is_row = name.startswith("w0_") and (len(places) > 1 or places[0].key != name)
    wanted = shape[1:] if is_row else shape
    if is_row and len(places) != shape[0]:
        raise ModelError(f"{name}: {len(places)} layers have it, {shape[0]} were expected")
    for place in places:
        have = place.entry.shape
        # The fork's learning rates carry a last axis of one.
        if have != wanted and not (".ttt.rate_" in name and have == (*wanted, 1)):
            raise ModelError(f"{place.file.path}: {place.key} is {have}, not {wanted}")
