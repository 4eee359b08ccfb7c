"""The full-size chapter of the tutorial on stand-ins: a small checkpoint, a dataset of frames."""

import argparse
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

from selfalign.cli import _parser, main
from selfalign.model.checkpoint import load_policy
from selfalign.model.convert import convert
from selfalign.pretrain.command import shipped
from tests.docs.blocks import commands_of, read_blocks
from tests.fakes.lerobot_dataset import Written
from tests.fakes.published import (
    as_openpi_keeps_it,
    published_shapes,
    random_tensors,
    small_config,
    write_checkpoint,
)

ROOT = Path(__file__).parents[2]
BLOCKS = read_blocks(ROOT / "docs" / "tutorial.md")
STACK = {"width": 16, "depth": 4, "mlp_dim": 24, "heads": 2, "kv_heads": 1, "head_dim": 8}
# What makes the configuration short; every other field is that of the shipped one.
SHORT = {"iterations": 2, "slots": 2, "slots_per_iteration": 2, "accumulate": 2}


def arguments_of(command: str, option: str = "") -> tuple[list[str], argparse.Namespace]:
    """Arguments of the tutorial's `selfalign COMMAND` with that option, as words and as parsed."""
    lines = [line for block in BLOCKS if block.kind == "needs" for line in commands_of(block)]
    (line,) = [
        line for line in lines if line.startswith(f"selfalign {command} ") and option in line
    ]
    words = shlex.split(line)[1:]
    return words, _parser().parse_args(words)


def write_short_configuration(name: str, path: Path) -> None:
    """The shipped configuration of that name, shorter."""
    text = shipped()[name].read_text(encoding="utf-8")
    stage1 = tomllib.loads(text)["stage1"]
    for field, value in SHORT.items():
        text = text.replace(f"\n{field} = {stage1[field]}\n", f"\n{field} = {value}\n")
    path.write_text(text)


@pytest.mark.slow
def test_the_chapter_leads_from_a_checkpoint_to_a_model_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    geometry = small_config("pi05", language={**STACK, "width": 24}, action=STACK)
    tensors = as_openpi_keeps_it(random_tensors(published_shapes(geometry)))
    _, asked = arguments_of("convert")
    write_checkpoint(Path(asked.source), tensors, tokenizer=False)
    shutil.copy(ROOT / "tests" / "parity" / "pieces.model", asked.tokenizer)
    Written(lengths=(40, 44, 40, 44), as_video=False).write(tmp_path / "my-demonstrations")
    training_words, training = arguments_of("pretrain", "--data")
    # A file of the very name is taken before the configuration that ships.
    write_short_configuration(training.config, tmp_path / training.config)

    # The command knows the published geometries only; this one is smaller.
    convert(
        Path(asked.source),
        asked.target,
        like=geometry,
        horizon=asked.horizon,
        tokenizer=asked.tokenizer,
        cameras=tuple(asked.cameras.split(",")),
    )
    for words in (arguments_of("attach")[0], arguments_of("info")[0], training_words):
        assert main(words) == 0, capsys.readouterr().err

    policy = load_policy(training.directory / "model")
    assert policy.config.horizon == asked.horizon
    assert policy.config.alignment.depth == arguments_of("attach")[1].alignment_depth
