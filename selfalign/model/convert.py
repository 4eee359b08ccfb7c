"""`selfalign convert`: a published checkpoint becomes a model directory, tensor by tensor.

Nothing is left at random and nothing passes in silence: a key that is missing, unknown or of the
wrong shape is refused by name before a byte is written; a key that is left out is reported.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, final

import torch
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model.checkpoint import CONFIG, TOKENIZER, TOKENIZERS, WEIGHTS, empty_policy
from selfalign.model.config import ModelConfig
from selfalign.model.convert_config import named_cameras, with_option
from selfalign.model.convert_source import Place, Source, open_source
from selfalign.model.convert_stats import copy_stats
from selfalign.model.keys import keeps_float32
from selfalign.model.tensor_file import Planned, write_tensors
from selfalign.model.tokenizer import read_tokenizer

Precision = Literal["bfloat16", "float32"]


@final
@dataclass(frozen=True)
class Converted:
    """What a conversion did, for the person who asked for it."""

    config: ModelConfig
    kind: str
    numbers: int
    notes: tuple[str, ...]


def convert(  # noqa: PLR0913 - named, each something that a source may leave open
    source: Path,
    target: Path,
    *,
    dtype: Precision | None = None,
    tokenizer: Path | None = None,
    horizon: int | None = None,
    trained_delay: int | None = None,
    asset: str | None = None,
    cameras: tuple[str, ...] | None = None,
    like: ModelConfig | None = None,
) -> Converted:
    """Write a checkpoint as a model directory of ours.

    Args:
        source: A directory of openpi, LeRobot, the fork with TTT, or this project.
        target: A directory that does not exist or is empty.
        dtype: Precision of the weights; None keeps each as it is. With bfloat16 those that openpi
            keeps in float32 stay so, and W0 is float32 always.
        tokenizer: Its tokenizer, where the source has none.
        horizon: Commands in a chunk, where the source does not say.
        trained_delay: Longest frozen start of a chunk that it was trained for, or is to be; None
            keeps what our own says, other sources say nothing.
        asset: Which of several normalisations openpi's `assets` holds.
        cameras: What the robot calls the cameras, in the order that the checkpoint was trained
            with; None keeps the source's names.
        like: Geometry instead of the published one (tests).

    Raises:
        ModelError: something does not fit; the message names it.
    """
    found = open_source(source, horizon=horizon, like=like)
    if cameras is not None:
        found = replace(found, config=named_cameras(found.config, cameras))
    if trained_delay is not None:
        found = replace(found, config=with_option(found.config, "trained_delay", trained_delay))
    text = _tokenizer_of(source, tokenizer)
    # Refuses a tokenizer that the model cannot hold, before gigabytes are written.
    empty_policy(found.config, read_tokenizer(text))
    notes = [_of_cameras(found.config)]
    notes += [f"left out {len(names)} keys: {why}" for why, names in sorted(found.dropped.items())]
    with new_directory(target) as made:
        notes += copy_stats(found, source, made, asset=asset)
        shutil.copyfile(text, made / TOKENIZERS[text.suffix != ".json"])
        write_tensors(made / WEIGHTS, _plan(found, dtype))
        found.config.save(made / CONFIG)
    numbers = sum(planned.entry.numel for places in found.weights.values() for planned in places)
    return Converted(found.config, found.kind, numbers, tuple(notes))


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to write to, which becomes `target` when all went well and else vanishes.

    Raises:
        ModelError: the target holds something already.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is not an empty directory; nothing is overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as outer:
        made = Path(outer) / target.name
        made.mkdir()
        yield made
        # POSIX lets a directory replace an empty one.
        made.replace(target)


def _of_cameras(config: ModelConfig) -> str:
    if not config.cameras:
        return "the source names no cameras: a robot's cameras are taken in the order of its spec"
    return (
        f"cameras in this order: {', '.join(config.cameras)}; a robot spec has these names, or "
        "give --cameras with the names that it has"
    )


def _plan(source: Source, dtype: Precision | None) -> dict[str, Planned]:
    return {
        name: Planned(
            _precision(name, places[0].entry.dtype, dtype),
            source.shapes[name],
            partial(_chained, places),
        )
        for name, places in source.weights.items()
    }


def _precision(name: str, stored: torch.dtype, dtype: Precision | None) -> torch.dtype:
    if dtype == "float32" or name.startswith("w0_"):
        return torch.float32
    if dtype is None:
        return stored
    return torch.float32 if keeps_float32(name) else torch.bfloat16


def _chained(places: tuple[Place, ...]) -> Iterator[Tensor]:
    for place in places:
        yield from place.blocks()


def _tokenizer_of(source: Path, given: Path | None) -> Path:
    if given is not None:
        if not given.is_file():
            raise ModelError(f"the tokenizer {given} does not exist")
        return given
    for name in (*TOKENIZERS, "paligemma_tokenizer.model"):
        if (source / name).is_file():
            return source / name
    raise ModelError(
        f"{source} has no {TOKENIZER}, and PaliGemma's may not be passed on with this program. Get "
        "tokenizer.json of google/paligemma-3b-pt-224 from Hugging Face (accept its licence), or "
        "paligemma_tokenizer.model of big_vision, and give it with --tokenizer FILE"
    )
